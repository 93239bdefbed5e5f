"""Measure all that a card shows: a recipe, random vectors and plain prompting, on the same evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from steer_cli.activations.arms import Steering
from steer_cli.activations.baselines import control_vectors
from steer_cli.events import Progress, silent
from steer_cli.measure import effects
from steer_cli.measure.bootstrap import Draws, estimate
from steer_cli.measure.choices import MULTIPLIERS, log_odds, log_odds_after, multiples, slopes
from steer_cli.measure.score_plan import ScorePlan
from steer_cli.measure.share import mean_share, share_of
from steer_cli.measure.text_arms import ArmChanges, TextArms
from steer_cli.measure.writing import Written, draws_of, written
from steer_cli.networks.network import Network
from steer_cli.results import Answers, CurvePoint, Estimate, Fluency, Neutral

# Of the random vectors; unlikely to be those of a recipe that is itself a random vector.
SEEDS = (1501, 1502, 1503)
CURVE = (0.5, 1.5, 2.0)  # multiples of the coefficient, beside 0 and 1
ROUNDING = 1e-5  # nats; the slope of an item on which nothing acts may be as far from 0
NOTHING = Estimate(0.0, 0.0, 0.0, 0)


@dataclass
class Arms:
    """What was measured: for the steered arm, each random vector and, last, plain prompting where available.

    `effects` and `beyond` (steered less the arm) hold for each kind of evidence one value per arm.
    """

    effects: dict[str, list[Estimate]] = field(default_factory=dict)
    beyond: dict[str, list[Estimate]] = field(default_factory=dict)
    neutral: list[Neutral] = field(default_factory=list)
    changes: ArmChanges | None = None  # of the steered arm
    answers: Answers | None = None
    fluency: Fluency | None = None
    curve: tuple[CurvePoint, ...] = ()
    seeds: Sequence[int] = SEEDS  # of the random vectors

    def enter(self, kind: str, found: list[Estimate], beyond: list[Estimate]) -> None:
        self.effects[kind], self.beyond[kind] = found, beyond


def measured(
    network: Network,
    plan: ScorePlan,
    steering: Steering,
    curve: bool = False,
    progress: Progress = silent,
    seeds: Sequence[int] = SEEDS,
) -> Arms:
    """Measure a plan.

    Args:
        steering: the recipe's vectors.
        curve: also measure multiples of the coefficient on sentences.
        seeds: of the random vectors.

    Raises:
        SteerError: an arm changes nothing, or too few sentences can be measured.
    """
    alignments, vectors = steering.alignments, steering.vectors
    randoms = [
        Steering(alignments, tuple(control_vectors(network, alignments, vectors, "random", seed)))
        for seed in seeds
    ]
    found = Arms(seeds=seeds)
    if plan.lines:
        _sentences(network, plan, [steering, *randoms], curve, progress, found)
    if plan.choices is not None:
        _choices(network, plan, [steering, *randoms], found)
    if plan.writing is not None:
        _completions(network, plan, [steering, *randoms], progress, found)
    return found


def _sentences(
    network: Network, plan: ScorePlan, arms: list[Steering], curve: bool, progress: Progress, found: Arms
) -> None:
    more = multiples(arms[0], CURVE) if curve else []
    fronted = plan.fronted
    passes = len(arms) + len(more) + 1 + (fronted is not None)
    tokenizer = plan.facts.tokenizer
    sheet = TextArms(
        network, tokenizer, plan.lines, ("neutral",), _counting(progress, passes * len(plan.lines))
    )
    compared = sheet.compared([*arms, *more], keep_changes=True)
    changes = [sheet.by_set(arm, number) for number, arm in enumerate(compared)]
    scaled = dict(zip(CURVE, changes[len(arms) :], strict=False))
    changes = changes[: len(arms)]
    if fronted is not None:
        changes.append(sheet.with_tokens_in_front(fronted.lines, compared[0]))
    found.changes = changes[0]
    found.neutral = [_neutral(arm) for arm in changes]
    if "toward" in changes[0]:
        found.enter(
            "sentences",
            [effects.effect(arm) for arm in changes],
            [effects.effect_beyond(changes[0], arm) for arm in changes[1:]],
        )
    if curve:
        points = {0.0: None, 1.0: changes[0]} | scaled
        found.curve = tuple(_point(multiplier, points[multiplier]) for multiplier in sorted(points))


def _point(multiplier: float, changes: ArmChanges | None) -> CurvePoint:
    if changes is None:
        return CurvePoint(multiplier, {"sentences": NOTHING}, NOTHING)
    found = {"sentences": effects.effect(changes)} if "toward" in changes else {}
    return CurvePoint(multiplier, found, effects.damage(changes))


def _counting(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress("score", min(done, total), total)

    return count


def _neutral(changes: ArmChanges) -> Neutral:
    divergences = changes["neutral"].divergence
    sums = np.array([float(values.sum()) for values in divergences])
    counts = changes["neutral"].change.counts
    highest = float(np.quantile(torch.cat(divergences).numpy(), 0.95))
    return Neutral(effects.damage(changes), estimate((1.0, Draws(sums, counts))), highest)


def _choices(network: Network, plan: ScorePlan, arms: Sequence[Steering], found: Arms) -> None:
    assert plan.choices is not None
    # Multiple 0 is the same in all arms: the first row is everybody's.
    acting = MULTIPLIERS[1:]
    rows = [*multiples(arms[0], [0.0]), *(part for arm in arms for part in multiples(arm, acting))]
    odds = log_odds(network, plan.choices, rows)
    by_arm = [
        np.vstack([odds[:1], odds[1 + len(acting) * number :][: len(acting)]]) for number in range(len(arms))
    ]
    values = [slopes(of_arm) for of_arm in by_arm]
    if plan.choice_rows:
        # A text in front has no multiples: what it changes stands beside the change of one coefficient.
        values.append(log_odds_after(network, plan.choices, plan.choice_rows) - odds[0])
    _enter_draws(found, "choices", [Draws.of(of_arm) for of_arm in values])
    means = (estimate((1.0, Draws.of(row))) for row in by_arm[0])
    falling = share_of(int((values[0] < -ROUNDING).sum()), len(values[0]))
    found.answers = Answers(tuple(zip(MULTIPLIERS, means, strict=True)), falling)


def _enter_draws(found: Arms, kind: str, draws: Sequence[Draws]) -> None:
    found.enter(
        kind,
        [estimate((1.0, of_arm)) for of_arm in draws],
        [estimate((1.0, draws[0].less(of_arm))) for of_arm in draws[1:]],
    )


def _completions(
    network: Network, plan: ScorePlan, arms: list[Steering], progress: Progress, found: Arms
) -> None:
    assert plan.writing is not None
    label = plan.evidence.count
    # Other arms than these two write for the words alone.
    writing = arms if label is not None else arms[:1]
    texts = written(network, plan.writing, writing, plan.writing_rows, label, progress)
    unsteered, *others = texts
    if label is not None:
        base = draws_of(unsteered.words)
        _enter_draws(found, "count", [draws_of(arm.words).less(base) for arm in others])
    found.fluency = _fluency(unsteered, others[0])


def _fluency(unsteered: Written, steered: Written) -> Fluency:
    logprobs = [draws_of(arm.logprob) for arm in (unsteered, steered)]
    repeated = [draws_of(arm.repeated) for arm in (unsteered, steered)]
    likely = [estimate((1.0, draws)) for draws in logprobs]
    shares = [mean_share(draws) for draws in repeated]
    prompts, draws = len(unsteered.logprob), len(logprobs[0].sums)
    over = "prompts" if draws == prompts else "samples"
    return Fluency(
        (likely[0], likely[1]),
        estimate((-1.0, logprobs[1].less(logprobs[0]))),
        (shares[0], shares[1]),
        mean_share(repeated[1].less(repeated[0]), least=-1.0),
        over,
    )
