"""Record the residual stream, add to it, and go on from it: the only hooks.

Layer L is the stream that enters block L, for recording and for adding alike. Hooks live in an
ExitStack, so that they are gone after the `with`, however it ends. This module does not know where
vectors come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steer_cli.models.load import Model

Change = Callable[[int, Tensor], Tensor | None]  # (layer, stream [rows, positions, width]) -> new stream
Seen = Callable[[int, Tensor, Tensor], None]  # shown (layer, stream before, stream after) what is added
Made = Callable[[], Tensor]  # what is added at a layer, made when a pass gets there

NO_DELTAS: Mapping[int, Made] = {}


class _Enough(Exception):
    """The deepest layer that is needed was reached."""


@contextmanager
def _at_layers(model: Model, layers: Iterable[int], change: Change) -> Iterator[None]:
    """Call `change` on the stream that enters each of the blocks; what it returns goes on instead."""

    def hook_for(layer: int) -> Callable:
        def hook(_: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            # Some architectures hand the stream over by keyword.
            stream = args[0] if args else kwargs["hidden_states"]
            changed = change(layer, stream)
            if changed is None:
                return None
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        return hook

    with ExitStack() as stack:
        for layer in layers:
            handle = model.blocks[layer].register_forward_pre_hook(hook_for(layer), with_kwargs=True)
            stack.callback(handle.remove)
        yield


@torch.inference_mode()
def record(model: Model, ids: Tensor, layers: Iterable[int]) -> dict[int, Tensor]:
    """The stream that enters the given blocks; the pass stops at the deepest of them.

    Args:
        ids: [rows, positions]; no position is masked.

    Returns:
        layer -> [rows, positions, width], in the model's dtype.
    """
    streams: dict[int, Tensor] = {}
    deepest = max(layers := sorted(set(layers)))

    def keep(layer: int, stream: Tensor) -> None:
        streams[layer] = stream
        if layer == deepest:
            raise _Enough

    with _at_layers(model, layers, keep), suppress(_Enough):
        model.network(input_ids=ids.to(model.device), use_cache=False)
    return streams


@contextmanager
def inject(model: Model, deltas: Mapping[int, Tensor], seen: Seen | None = None) -> Iterator[None]:
    """Within the `with`, add `deltas[layer]` to the stream that enters block `layer`.

    Args:
        deltas: layer -> a tensor that broadcasts to the stream, [rows, positions, width]; zeros
            where nothing is to change, which leaves those values exactly as they are.
        seen: shown each stream before and after, for the receipt.
    """

    def add(layer: int, stream: Tensor) -> Tensor:
        # Out of place: the block before still owns this tensor.
        after = stream + deltas[layer].to(stream)
        if seen is not None:
            seen(layer, stream, after)
        return after

    with _at_layers(model, deltas, add):
        yield


@torch.inference_mode()
def advance(
    model: Model,
    start: int,
    stream: Tensor,
    stop: int,
    deltas: Mapping[int, Made] = NO_DELTAS,
    seen: Seen | None = None,
) -> Tensor:
    """The stream that enters block `stop`, from the one that enters block `start` <= `stop`.

    Args:
        stream: [rows, positions, width]; whole texts from their first position on, none masked.
        stop: at most the model's depth, which stands for the stream that leaves the last block.
        deltas: layer in [start, stop) -> what is added there, [rows, positions, width], one at a time.
        seen: shown each stream before and after that.

    Returns:
        [rows, positions, width]; what one pass from the tokens gives, at the cost of the blocks between.
    """
    if start == stop:
        return stream
    reached: list[Tensor] = []

    def change(layer: int, met: Tensor) -> Tensor | None:
        if layer == stop:
            reached.append(met)
            raise _Enough
        met = stream if layer == start else met
        if layer not in deltas:
            return met
        after = met + deltas[layer]().to(met)
        if seen is not None:
            seen(layer, met, after)
        return after

    def leave(_: Any, __: Any, output: Any) -> None:
        change(model.depth, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        stack.enter_context(_skip_below(model, start))
        layers = {start, *deltas}
        if stop == model.depth:
            stack.callback(model.blocks[-1].register_forward_hook(leave).remove)
        else:
            layers.add(stop)
        stack.enter_context(_at_layers(model, layers, change))
        stack.enter_context(suppress(_Enough))
        model.network(inputs_embeds=_embeddings(model, start, stream), use_cache=False)
    return reached[0]


@torch.inference_mode()
def read_out(model: Model, stream: Tensor) -> Tensor:
    """Logits of positions from the stream that leaves the last block there.

    What follows the blocks looks at one position at a time, so a pass through all blocks can be read out in
    parts: a vocabulary is often hundreds of times as wide as the stream.

    Args:
        stream: [positions, width], of any texts.

    Returns:
        [positions, vocabulary], in the model's dtype.
    """
    # Rows of one position: as many as there are, some models could not place in one row.
    rows = stream[:, None]
    with _skip_below(model, model.depth), _at_layers(model, [model.depth - 1], lambda *_: rows):
        embeddings = _embeddings(model, model.depth, rows)
        return model.network(inputs_embeds=embeddings, use_cache=False).logits[:, 0]


def _embeddings(model: Model, start: int, stream: Tensor) -> Tensor:
    """What a pass that goes on at block `start` begins with; the hook there puts the stream in its place.

    Some networks embed in another width than the stream's, and project: they cannot begin with the stream.
    """
    width = model.network.get_input_embeddings().weight.shape[1]
    return stream if width == stream.shape[-1] else stream.new_zeros(*stream.shape[:-1], width)


# What a block of a network returns: 0 for the stream itself, else the length of a tuple that begins with it.
_RETURNED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def _returned(model: Model) -> int:
    if model.network not in _RETURNED:

        def look(_: Any, __: Any, output: Any) -> None:
            _RETURNED[model.network] = len(output) if isinstance(output, tuple) else 0

        with ExitStack() as stack:
            stack.callback(model.blocks[0].register_forward_hook(look).remove)
            model.network(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    return _RETURNED[model.network]


@contextmanager
def _skip_below(model: Model, layer: int) -> Iterator[None]:
    """Within the `with`, blocks below `layer` hand on what they were given.

    The list of blocks stays whole, because networks look up masks and kinds of attention by a block's number.
    """
    length = _returned(model) if layer else 0

    def hand_on(*args: Tensor, **kwargs: Any) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        return (stream, *[None] * (length - 1)) if length else stream

    with ExitStack() as stack:
        for block in model.blocks[:layer]:
            # A device map puts a `forward` of its own on the instance; it has to come back.
            own = vars(block).get("forward")
            stack.callback(
                partial(setattr, block, "forward", own) if own else partial(delattr, block, "forward")
            )
            block.forward = hand_on
        yield
