"""Where does steering start to work, and where does it break? One prompt at many settings, in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor

from steer_cli.activations.agreement import agreement, warn
from steer_cli.activations.arms import UNSTEERED, Steering
from steer_cli.activations.capture import capture
from steer_cli.activations.relative import stream_lengths
from steer_cli.activations.vectors import read_by, vector_of
from steer_cli.decoding.engine import Finished, decode
from steer_cli.decoding.request import Decoded, Request
from steer_cli.errors import ModelError, VectorError
from steer_cli.events import Note, Progress, silent
from steer_cli.measure.completions import completion_of
from steer_cli.measure.logprob import PASS_POSITIONS, mean_logprobs
from steer_cli.networks.network import Network
from steer_cli.planning.plan import PlannedPrompt
from steer_cli.planning.scan import ScanPlan, Setting
from steer_cli.results import Agreement, CameTo, Completion, ScanPoint, came_to

# Why a setting cannot be run, in one line: what stands in the place of its vectors, request or completions.
Fault = str


def scan(
    network: Network,
    plan: ScanPlan,
    batch_rows: int | None,
    progress: Progress,
    note: Note = silent,
) -> Iterator[ScanPoint]:
    """The points of every prompt, setting by setting, as soon as they are known.

    A setting that adds nothing, or whose logits are not finite, is a point with an error.

    Args:
        batch_rows: rows that decode together; None fits them to a memory budget.
        note: told where the texts of an addition do not agree.

    Raises:
        VectorError: the unsteered model cannot be run, or none of the settings can.
    """
    finished = _finished(network, plan, _requests(network, plan, progress, note), batch_rows, progress)
    faults: list[Fault] = []
    for prompt in plan.prompts:
        plain = next(finished)
        if isinstance(plain, Fault):
            raise VectorError(plain)
        strip = _Strip(network, plan, prompt, plain)
        for setting in plan.settings:
            strip.add(setting, plain if setting.plan is None else next(finished))
            if strip.is_full or setting is plan.settings[-1]:
                points = strip.take()
                faults += [point.error for point in points if point.error is not None]
                yield from points
    if len(faults) == len(plan.acting) * len(plan.prompts):
        raise VectorError(f"no row could be run: {faults[0]}")


def _requests(network: Network, plan: ScanPlan, progress: Progress, note: Note) -> list[Request | Fault]:
    """For each prompt the unsteered arm, then every setting that acts."""
    vectors = _vectors(network, plan, progress, note)
    steerings = [
        found if isinstance(found, Fault) else Steering(acting.alignments, found)
        for acting, found in zip(plan.acting, vectors, strict=True)
    ]
    layers = {layer for each in steerings if isinstance(each, Steering) for layer in each.relative_layers}
    lengths = stream_lengths(network, [prompt.ids for prompt in plan.prompts], layers, progress)
    requests: list[Request | Fault] = []
    for index, prompt in enumerate(plan.prompts):
        requests.append(Request(prompt.ids, (UNSTEERED,)))
        for acting, steering in zip(plan.acting, steerings, strict=True):
            if isinstance(steering, Fault):
                requests.append(steering)
                continue
            try:
                arm = steering.on(acting.prompts[index].placements, lengths[index])
            except VectorError as error:
                requests.append(str(error))
            else:
                requests.append(Request(prompt.ids, (arm,)))
    return requests


def _vectors(
    network: Network, plan: ScanPlan, progress: Progress, note: Note
) -> list[tuple[Tensor, ...] | Fault]:
    """The vectors of every setting that acts. All are read in one capture; a coefficient only scales them."""
    acting = [setting for setting in plan.settings if setting.plan is not None]
    wanted = set().union(*(read_by(acts.alignments) for acts in plan.acting))
    streams = capture(network, wanted, progress) if wanted else {}
    made: dict[object, tuple[Tensor, ...] | Fault] = {}
    agreements: list[Agreement | None] = []
    found = []
    for setting, acts in zip(acting, plan.acting, strict=True):
        # A vector of zeros is no fault where the coefficient is 0, while other additions act.
        key = setting.layer, acts.recipe.additions[0].strength == 0
        if key not in made:
            try:
                made[key] = tuple(vector_of(alignment, streams, network) for alignment in acts.alignments)
                agreements += (agreement(alignment, streams, network) for alignment in acts.alignments)
            except VectorError as error:
                made[key] = str(error)
        found.append(made[key])
    warn(agreements, note)
    return found


def _finished(
    network: Network,
    plan: ScanPlan,
    requests: Sequence[Request | Fault],
    batch_rows: int | None,
    progress: Progress,
) -> Iterator[Finished | Fault]:
    """The completions of every request, or why it has none."""
    sampling, eos = plan.recipe.sampling, plan.facts.tokenizer.eos
    longest = max(len(prompt.ids) for prompt in plan.prompts)
    runnable = [request for request in requests if isinstance(request, Request)]
    ended = _Ended(progress, len(runnable), sampling.samples)
    rows = None if batch_rows is None else min(batch_rows, ended.total)
    run = partial(
        decode, network, sampling=sampling, eos=eos, longest_prompt=longest, batch_rows=rows, ended=ended
    )
    made = _outcomes(run, runnable, ended)
    for request in requests:
        yield request if isinstance(request, Fault) else next(made)


class _Ended:
    """Tells how many rows have ended."""

    def __init__(self, progress: Progress, requests: int, samples: int):
        self.total, self._progress, self._samples, self._done = requests * samples, progress, samples, 0

    def __call__(self, more: int) -> None:
        self._done += more
        self._progress("decode", self._done, self.total)

    def go_on_from(self, requests: int) -> None:
        """Forget the rows of all but the first requests."""
        self(requests * self._samples - self._done)


def _outcomes(
    run: Callable[..., Iterator[Finished]], requests: Sequence[Request], ended: _Ended
) -> Iterator[Finished | Fault]:
    given = 0
    try:
        for finished in run(requests=requests):
            given += 1
            yield finished
    except VectorError:
        # One request at fault ends the batch. Those that are left run alone, outside of this handler: the
        # error's traceback holds the memory of the batch.
        pass
    for index in range(given, len(requests)):
        ended.go_on_from(index)
        try:
            [finished] = run(requests=[requests[index]])
        except VectorError as error:
            ended.go_on_from(index + 1)
            yield str(error)
        else:
            yield finished


class _Strip:
    """The points of one prompt on their way: a few settings' completions are scored in one pass.

    Args:
        plain: the unsteered completions.
    """

    def __init__(self, network: Network, plan: ScanPlan, prompt: PlannedPrompt, plain: Finished):
        self._network, self._plan, self._prompt, self._plain = network, plan, prompt, plain
        # The unsteered arm was drawn from exactly these probabilities.
        known = [row.mean_logprob for row in plain.arms[0] if row.mean_logprob is not None]
        self._unsteered = self._completions(plain.arms[0], known)
        self._waiting: list[tuple[Setting, Finished | Fault]] = []

    def add(self, setting: Setting, outcome: Finished | Fault) -> None:
        self._waiting.append((setting, outcome))

    @property
    def is_full(self) -> bool:
        """Whether waiting for more settings gains nothing."""
        positions = sum(len(row.ids) for rows in self._unscored() for row in rows)
        return positions == 0 or positions >= PASS_POSITIONS

    def take(self) -> list[ScanPoint]:
        """The points that wait, scored."""
        scores = iter(self._scores(list(self._unscored())))
        points = []
        for setting, outcome in self._waiting:
            if outcome is self._plain:
                points.append(self._point(setting, self._unsteered))
            elif isinstance(outcome, Fault):
                points.append(self._point(setting, (), outcome))
            else:
                score = next(scores)
                fault = score if isinstance(score, Fault) else None
                made = () if isinstance(score, Fault) else self._completions(outcome.arms[0], score)
                [arm] = outcome.started.request.arms
                points.append(self._point(setting, made, fault, came_to(arm.placements)))
        self._waiting = []
        return points

    def _unscored(self) -> Iterator[Sequence[Decoded]]:
        for _, outcome in self._waiting:
            if outcome is not self._plain and not isinstance(outcome, Fault):
                yield outcome.arms[0]

    def _scores(self, arms: Sequence[Sequence[Decoded]]) -> list[list[float] | Fault]:
        """Mean log probability of each completion under the unsteered model, arm by arm."""
        start = self._plain.started
        rows = [row.ids for arm in arms for row in arm]
        try:
            means = iter(mean_logprobs(self._network, start.prefixes[0], start.logits[0], rows))
        except ModelError as error:
            # Of several arms, one may be at fault.
            return [str(error)] if len(arms) == 1 else [self._scores([arm])[0] for arm in arms]
        return [[next(means) for _ in arm] for arm in arms]

    def _completions(self, rows: Sequence[Decoded], logprobs: Sequence[float]) -> tuple[Completion, ...]:
        pairs = zip(rows, logprobs, strict=True)
        return tuple(completion_of(self._plan, self._prompt, row, logprob) for row, logprob in pairs)

    def _point(
        self,
        setting: Setting,
        completions: tuple[Completion, ...],
        fault: Fault | None = None,
        coefficients: tuple[CameTo, ...] = (),
    ) -> ScanPoint:
        return ScanPoint(
            recipe=self._plan.recipe,
            model=self._plan.facts.name,
            prompt=self._prompt.text,
            layer=setting.layer,
            coefficient=setting.coefficient,
            unsteered=self._unsteered,
            completions=completions,
            error=fault,
            chat=self._prompt.chat,
            coefficients=coefficients,
        )
