"""Regroup samples after each draw: samples that have drawn the same tokens share a slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

Sample = TypeVar("Sample")


class Ended(NamedTuple, Generic[Sample]):
    """A sample that has drawn its last token, and the slot it was in."""

    sample: Sample
    slot: int
    token: int


class Regrouped(NamedTuple, Generic[Sample]):
    """Slots after a draw: the samples of each, the token they drew, and the slot they come from."""

    slots: list[list[Sample]]
    tokens: list[int]
    origins: list[int]
    ended: list[Ended[Sample]]


def regroup(
    slots: Sequence[Sequence[Sample]], tokens: Sequence[int], over: Sequence[bool]
) -> Regrouped[Sample]:
    """Remove samples that have ended, and move samples that drew different tokens into separate slots.

    A slot stays in place while any of its samples continues; the last slots move into gaps, so that slots in
    use come first.

    Args:
        slots: the samples of each slot in use.
        tokens, over: one per sample, in the order of the slots.
    """
    ended: list[Ended[Sample]] = []
    parts: list[dict[int, list[Sample]]] = []  # per slot: token -> the samples that drew it
    index = 0
    for slot, samples in enumerate(slots):
        part: dict[int, list[Sample]] = {}
        for sample in samples:
            if over[index]:
                ended.append(Ended(sample, slot, tokens[index]))
            else:
                part.setdefault(tokens[index], []).append(sample)
            index += 1
        parts.append(part)
    origins = list(range(len(parts)))
    # Fill the highest gap first, so that the slot moved into it is one that continues.
    for slot in reversed(range(len(parts))):
        if not parts[slot]:
            parts[slot], origins[slot] = parts[-1], origins[-1]
            del parts[-1], origins[-1]
    kept = [(*next(iter(part.items())), origin) for part, origin in zip(parts, origins, strict=True)]
    split = [
        (token, samples, origin)
        for part, origin in zip(parts, origins, strict=True)
        for token, samples in list(part.items())[1:]
    ]
    return Regrouped(
        slots=[samples for _, samples, _ in kept + split],
        tokens=[token for token, _, _ in kept + split],
        origins=[origin for _, _, origin in kept + split],
        ended=ended,
    )
