"""Record the residual stream, and add to it: the only hooks.

Layer L is the stream that enters block L, for recording and for adding alike. Hooks live in an
ExitStack, so that they are gone after the `with`, however it ends. This module does not know where
vectors come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from steer_cli.model import Model

Change = Callable[[int, Tensor], Tensor | None]  # (layer, stream [rows, positions, width]) -> new stream


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
def inject(
    model: Model, deltas: Mapping[int, Tensor], before: Callable[[int, Tensor], None] | None = None
) -> Iterator[None]:
    """Within the `with`, add `deltas[layer]` to the stream that enters block `layer`.

    Args:
        deltas: layer -> a tensor that broadcasts to the stream, [rows, positions, width]; zeros
            where nothing is to change, which leaves those values exactly as they are.
        before: shown each stream before it is changed, for the receipt.
    """

    def add(layer: int, stream: Tensor) -> Tensor:
        if before is not None:
            before(layer, stream)
        # Out of place: the block before still owns this tensor.
        return stream + deltas[layer].to(stream)

    with _at_layers(model, deltas, add):
        yield
