"""What rows have drawn so far -> the texts of the prompt that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from steer_cli.decoding.engine import Finished
from steer_cli.decoding.request import SampleGroup
from steer_cli.planning.plan import Plan, PlannedPrompt
from steer_cli.results import Partial, Watch, arm_names

INCOMPLETE = "\ufffd"  # what decoders give for bytes that are no whole character


class Partials:
    """Tells `watch` how the first completions of the oldest unfinished prompt grow.

    Called by `decode` with the requests under way.

    Args:
        per_prompt: requests of a prompt; their arms stand side by side.
    """

    def __init__(self, plan: Plan, control: str | None, per_prompt: int, watch: Watch) -> None:
        self._plan, self._per_prompt, self._watch = plan, per_prompt, watch
        self._names = arm_names(control)
        self._shown: Partial | None = None
        self._taken = 0  # requests that `decode` has given back

    def counting(self, finished: Iterable[Finished]) -> Iterator[Finished]:
        """What `decode` gives back, counted."""
        for one in finished:
            self._taken += 1
            yield one

    def __call__(self, groups: Iterable[SampleGroup]) -> None:
        number, ended = divmod(self._taken, self._per_prompt)
        prompt = self._plan.prompts[number]
        begins = self._shown is None or self._shown.number != number
        if self._shown is None or begins:
            self._shown = Partial(number, prompt.text, dict.fromkeys(self._names, ""))
        drawn = [arm for group in islice(groups, self._per_prompt - ended) for arm in group.first_by_arm()]
        columns = dict(self._shown.columns)
        # The first request of a prompt has two arms if there are more; given back, it has been shown whole.
        for name, ids in zip(self._names[2 * ended :], drawn, strict=False):
            columns[name] = self._text(prompt, ids, columns[name])
        if begins or columns != self._shown.columns:
            self._shown = Partial(number, prompt.text, columns)
            self._watch(self._shown)

    def _text(self, prompt: PlannedPrompt, ids: Sequence[int], before: str) -> str:
        """The text of `ids`, which grows from one step to the next, after it was `before`."""
        tokenizer = self._plan.facts.tokenizer
        text = tokenizer.completion(prompt.ids, tuple(ids))
        if len(ids) == self._plan.recipe.sampling.max_new_tokens or (ids and ids[-1] in tokenizer.eos):
            return text
        # Some decoders take a run of bytes back while its last character is incomplete.
        text = text.rstrip(INCOMPLETE)
        return before if before.startswith(text) else text
