"""Completions of one prompt, unsteered and steered side by side, and where the vectors acted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from steer_cli.planning.alignment_table import TableRow
from steer_cli.planning.placement import Placement
from steer_cli.recipe.chat import Chat
from steer_cli.recipe.schema import Recipe
from steer_cli.results.agreement import Agreement
from steer_cli.results.json_values import Record, finite, with_chat


def arm_names(control: str | None) -> tuple[str, ...]:
    """The arms' names, in the order in which they are shown; `control` is the name of a third one."""
    return ("unsteered", "steered", *([f"control: {control}"] if control else []))


@dataclass(frozen=True)
class Receipt:
    """Where one addition acted, with one value per position of [start, end).

    `vector` is the norm of the unscaled vector, `stream` that of the stream before the addition, `ratio`
    their quotient, `cosine` the cosine of the angle between them. An ablation also has the stream's component
    along the vector, before and after all that is done at the layer.
    """

    placement: Placement
    vector: tuple[float, ...]
    stream: tuple[float, ...]
    ratio: tuple[float, ...]
    cosine: tuple[float, ...]
    component_before: tuple[float, ...] = ()
    component_after: tuple[float, ...] = ()

    @property
    def change(self) -> tuple[float, ...]:
        """How far the addition moved the stream, in norms of the stream."""
        if not self.placement.ablates:
            return tuple(abs(self.placement.coefficient) * ratio for ratio in self.ratio)
        sides = zip(self.component_before, self.component_after, self.stream, strict=True)
        return tuple(abs(before - after) / norm if norm else math.nan for before, after, norm in sides)

    def record(self) -> Record:
        alignment = self.placement.alignment
        position = alignment.addition.position
        return {
            "layer": alignment.layer,
            "coefficient": self.placement.coefficient,
            **({} if self.placement.relative is None else {"relative": self.placement.relative}),
            "position": position if isinstance(position, str) else position.model_dump(),
            "span": [self.placement.start, self.placement.end],
            "files": alignment.files,
            **_ratio_and_cosine(self),
            **(self._components() if self.placement.ablates else {}),
        }

    def _components(self) -> Record:
        return {
            "operation": "ablate",
            "component_before": finite(round(value, 6) for value in self.component_before),
            "component_after": finite(round(value, 6) for value in self.component_after),
        }


@dataclass(frozen=True)
class Sum:
    """The change actually made where additions of a layer overlap, one value per position of [start, end).

    `sum` is the norm of the change to the stream, in its dtype and with all coefficients; `stream`, `ratio`
    and `cosine` are as in a receipt.
    """

    layer: int
    start: int
    end: int
    sum: tuple[float, ...]
    stream: tuple[float, ...]
    ratio: tuple[float, ...]
    cosine: tuple[float, ...]

    def record(self) -> Record:
        return {"layer": self.layer, "span": [self.start, self.end], **_ratio_and_cosine(self)}


def _ratio_and_cosine(acted: Receipt | Sum) -> Record:
    return {
        "ratio": finite(round(value, 6) for value in acted.ratio),
        "cosine": finite(round(value, 6) for value in acted.cosine),
    }


@dataclass(frozen=True)
class Completion:
    """One completion of the prompt.

    `counted`: for each label of the recipe's word lists, the spans of its words, [start, end) in the text.
    `mean_logprob` is in nats per token, under the unsteered model in every arm; None if not requested.
    """

    text: str
    tokens: tuple[int, ...]
    finish: str  # eos or length
    counted: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    mean_logprob: float | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How often each label's words occur."""
        return {label: len(spans) for label, spans in self.counted.items()}

    def record(self) -> Record:
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "finish": self.finish,
            "mean_logprob": self.mean_logprob,
            "counts": self.counts,
        }


@dataclass(frozen=True)
class Comparison:
    """The completions of one prompt in all arms; sample i uses the same random numbers in each of them."""

    recipe: Recipe
    model: str
    prompt: str
    pieces: tuple[str, ...]  # the prompt's tokens as texts
    table: tuple[TableRow, ...]
    receipts: tuple[Receipt, ...]
    unsteered: tuple[Completion, ...]
    steered: tuple[Completion, ...]
    control: tuple[Completion, ...] = ()
    control_kind: str | None = None  # random, embedding, prompt or shuffled
    control_name: str | None = None  # what the screen calls it, where that is more than the kind
    control_text: str | None = None  # with `prompt`: what stood in front of the prompt
    sums: tuple[Sum, ...] = ()
    chat: Chat | None = None  # of which `prompt` is the short form
    agreements: tuple[Agreement | None, ...] = ()  # of the texts behind each receipt

    @property
    def columns(self) -> dict[str, tuple[Completion, ...]]:
        """The arms by name, in the order in which they are shown."""
        arms = (self.unsteered, self.steered, self.control)
        return dict(zip(arm_names(self.control_name or self.control_kind), arms, strict=False))

    def records(self) -> Iterator[Record]:
        """One record per sample."""
        recipe = self.recipe
        for sample, (unsteered, steered) in enumerate(zip(self.unsteered, self.steered, strict=True)):
            record = {
                "recipe": recipe.name,
                "recipe_sha256": recipe.sha256,
                "model": self.model,
                "prompt": self.prompt,
                "sample": sample,
                "seed": recipe.sampling.seed,
                "unsteered": unsteered.record(),
                "steered": steered.record(),
                **({"control": self._control_record(sample)} if self.control_kind else {}),
                "additions": self._additions(),
                "sums": [total.record() for total in self.sums],
            }
            yield with_chat(record, self.chat)

    def _additions(self) -> list[Record]:
        records = [receipt.record() for receipt in self.receipts]
        for record, agreement in zip(records, self.agreements, strict=False):
            record["agreement"] = None if agreement is None else agreement.record()
        return records

    def _control_record(self, sample: int) -> Record:
        front = {} if self.control_text is None else {"in_front": self.control_text}
        return {"kind": self.control_kind, **front} | self.control[sample].record()
