"""Draw the card of a recipe: the verdicts, the figures of every arm, and what they rest on."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from steer_cli.recipe.quoting import counted
from steer_cli.report.measures import plain_table, table_width
from steer_cli.report.numbers import plain
from steer_cli.report.printable import one_line
from steer_cli.results import Card, Estimate, ScoredArm, Verdict, reads_like
from steer_cli.results.verdict import UNITS, interval

EFFECT = {"sentences": "effect", "choices": "slope", "count": "words"}
STYLES = {1: "bold green", 0: "bold yellow", -1: "bold yellow"}


def card_parts(card: Card, width: int) -> Iterator[RenderableType]:
    """The card: the verdicts first, then every arm, then the details of the steered one."""
    for text, verdict in zip(card.sentences, card.verdicts.values(), strict=True):
        yield _verdict(text, verdict)
    yield from _tables(card, width)
    lines = [*_gains(card), *_answers(card), *_fluency(card), *_prompting(card), *_missing(card)]
    if lines:
        yield Text("\n".join(f"  {line}" for line in lines))
    yield Text(f"\n  {_legend(card)}", style="dim")


def _verdict(text: str, verdict: Verdict) -> Text:
    does, colon, found = text.partition(":")
    return Text.assemble("\n", (does + colon, STYLES[verdict.direction]), found)


def _tables(card: Card, width: int) -> Iterator[RenderableType]:
    """One table, or two where the screen is too narrow for all columns."""
    heads = [EFFECT[kind] for kind in card.verdicts]
    effects = [_effects(card, arm) for arm in card.arms]
    damages = [_damage(arm) for arm in card.arms]
    damage_heads = ["damage", "KL", "KL 95 %"] if card.steered.neutral else []
    names = [_name(arm) for arm in card.arms]
    both = [[name, *left, *right] for name, left, right in zip(names, effects, damages, strict=True)]
    if table_width(["", *heads, *damage_heads], both) <= width or not damage_heads:
        yield _table([*heads, *damage_heads], both)
        return
    yield _table(heads, [[name, *left] for name, left in zip(names, effects, strict=True)])
    kept = zip(names, card.arms, damages, strict=True)
    yield _table(damage_heads, [[name, *right] for name, arm, right in kept if arm.neutral])


def _table(heads: list[str], rows: list[list[str]]) -> RenderableType:
    table = plain_table("", *heads)
    for row in rows:
        table.add_row(*row)
    return table


def _name(arm: ScoredArm) -> str:
    if arm.name == "random":
        return f"random {arm.seed}"
    return "prompting" if arm.name == "prompt" else arm.name


def _effects(card: Card, arm: ScoredArm) -> list[str]:
    return [interval(arm.effects[kind]) if kind in arm.effects else "" for kind in card.verdicts]


def _damage(arm: ScoredArm) -> list[str]:
    if arm.neutral is None:
        return [""] * 3
    neutral = arm.neutral
    return [interval(neutral.damage), f"{neutral.kl.value:.3f}", f"{neutral.kl_95:.3f}"]


def _gains(card: Card) -> Iterator[str]:
    gains = [f"{name} {_signed(gain)}" for name, gain in card.gains.items()]
    if gains:
        yield f"gain per token  {', '.join(gains)}"


def _answers(card: Card) -> Iterator[str]:
    if card.answers is None:
        return
    odds = [f"{plain(multiplier)}: {odds.value:+.2f}" for multiplier, odds in card.answers.log_odds]
    yield f"log-odds at multiples of the coefficient  {', '.join(odds)}"
    falling = card.answers.falling
    low, high = (f"{100 * bound:.0f}" for bound in (falling.low, falling.high))
    yield f"items that fall  {100 * falling.value:.0f} % [{low}, {high}] of {falling.count}"


def _fluency(card: Card) -> Iterator[str]:
    found = card.fluency
    if found is None:
        return
    draws = found.over if found.cost.count > 1 else found.over.removesuffix("s")
    before, after = (f"{arm.value:.2f}" for arm in found.logprob)
    yield (
        f"completions  {before} → {after} nats per token: cost {interval(found.cost)} over "
        f"{found.cost.count} {draws}; {reads_like(found.cost.value)}"
    )
    before, after = (f"{100 * arm.value:.0f} %" for arm in found.repeated)
    low, high = (f"{100 * bound:+.0f}" for bound in (found.repeated_more.low, found.repeated_more.high))
    yield f"repeated 3-grams  {before} → {after} ({100 * found.repeated_more.value:+.0f} [{low}, {high}])"


def _prompting(card: Card) -> Iterator[str]:
    for arm in card.arms:
        if arm.text is not None:
            yield f"prompting  {one_line(arm.text)} in front"


def _missing(card: Card) -> Iterator[str]:
    if card.missing:
        yield f"not measured  {', '.join(card.missing)}"


def _signed(estimate: Estimate) -> str:
    text = interval(estimate)
    return text if text.startswith("-") else f"+{text}"


def _legend(card: Card) -> str:
    units = [f"{EFFECT[kind]} in {UNITS[kind]}" for kind in card.verdicts]
    sets = [
        counted(source.count, "choice") if source.name == "choices" else f"{source.measured} {source.name}"
        for source in card.sources
        if source.measured
    ]
    return (
        f"{', '.join(units)}; damage and KL on neutral text in nats per token; 95 % intervals; "
        f"over {', '.join(sets)}; docs/score.md explains each figure"
    )
