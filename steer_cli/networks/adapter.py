"""Run any other causal language model of transformers as a `Network`.

Hooks on the blocks read and change the stream, an exception ends a pass early, and blocks are skipped by
replacing their `forward`. All of this is undone when a pass ends, however it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steer_cli.errors import ModelError
from steer_cli.networks.attention import AfterPrefix, Attention, Causal
from steer_cli.networks.network import NO_CHANGES, Changes


class _Reached(Exception):
    """Raised when a pass has reached its last layer."""


class Adapter:
    """A transformers model as a `Network`.

    Args:
        model: a ...ForCausalLM in evaluation mode.
        blocks: its transformer blocks; see `find_blocks`.
        new_cache: makes an empty transformers cache that keeps all positions.
    """

    def __init__(self, model: Any, blocks: nn.ModuleList, new_cache: Callable[[], Any]):
        self.model, self.blocks, self._new_cache = model, blocks, new_cache
        self.windows = _windows(model.config.get_text_config())
        embeddings = model.get_input_embeddings().weight
        device = embeddings.device
        if device.type == "meta":  # the weights are offloaded, and are loaded for each pass
            device = torch.device(model.get_input_embeddings()._hf_hook.execution_device)
        self.depth, self.width = len(blocks), model.config.get_text_config().hidden_size
        self.vocabulary = model.get_output_embeddings().weight.shape[0]
        self.embeddings, self.dtype, self.device = embeddings.shape[0], model.dtype, device
        self.norms_remove_mean = _has_layer_norms(blocks[0])
        # Some networks embed in a width other than the stream's, and project.
        self._embedding_width = embeddings.shape[1]
        self._returned: int | None = None

    @property
    def on_one_gpu(self) -> bool:
        devices = {parameter.device for parameter in self.model.parameters()}
        return len(devices) == 1 and self.device.type == "cuda"

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """See `Network`; positions are those of whole rows, starting at 0."""
        return self._reach(0, input_ids=ids)

    def run(
        self,
        stream: Tensor,
        start: int,
        stop: int,
        attention: Attention,
        changes: Changes = NO_CHANGES,
    ) -> Tensor:
        if start == stop:
            return stream

        def begin(_: Tensor) -> Tensor:
            return changes[start](stream) if start in changes else stream

        inside = {layer: change for layer, change in changes.items() if start < layer < stop}
        with self._skipped_below(start), self._changed({**inside, start: begin}):
            return self._reach(stop, inputs_embeds=self._embeddings(start, stream), **self._asked(attention))

    def unembed(self, stream: Tensor) -> Tensor:
        # One position per row: some models cannot place this many positions in a single row.
        rows = stream.reshape(-1, 1, self.width)
        with self._skipped_below(self.depth), self._changed({self.depth - 1: lambda _: rows}):
            logits = self.model(inputs_embeds=self._embeddings(self.depth, rows), use_cache=False).logits
        return logits.view(*stream.shape[:-1], -1)

    def next_logits(
        self, ids: Tensor, attention: Attention, changes: Changes = NO_CHANGES, ends: Tensor | None = None
    ) -> Tensor:
        # In one pass: with few rows, transformers' own Python code takes a good part of a step's time.
        kept, place = (None, None) if ends is None else ends.unique(return_inverse=True)
        with self._changed(changes):
            asked = self._asked(attention)
            output = self.model(input_ids=ids, logits_to_keep=1 if kept is None else kept, **asked)
        if isinstance(attention, Causal) and attention.keep:
            self._take_past(asked["past_key_values"], attention)
        return output.logits[:, -1] if place is None else output.logits[torch.arange(len(ids)), place]

    def rows_to_run(self, rows: int, most: int, steps: int) -> int:
        return rows

    def slots_for(self, rows: int) -> int:
        return rows

    def _take_past(self, cache: Any, attention: Causal) -> None:
        layers = cache.layers
        if len(layers) != self.depth or any(layer.keys.shape[2] != attention.length for layer in layers):
            raise ModelError("it does not keep keys and values of every position")
        attention.took([layer.keys for layer in layers], [layer.values for layer in layers])

    def _reach(self, layer: int, **arguments: Any) -> Tensor:
        """Run the model up to block `layer`, and return the stream that enters it."""
        reached: list[Tensor] = []

        def stop(stream: Tensor) -> Tensor:
            reached.append(stream)
            raise _Reached

        def leave(_: Any, __: Any, output: Any) -> None:
            stop(output[0] if isinstance(output, tuple) else output)

        with ExitStack() as stack:
            if layer == self.depth:
                stack.callback(self.blocks[-1].register_forward_hook(leave).remove)
            else:
                stack.enter_context(self._changed({layer: stop}))
            stack.enter_context(suppress(_Reached))
            self.model(**({"use_cache": False} | arguments))
        return reached[0]

    @contextmanager
    def _changed(self, changes: Changes) -> Iterator[None]:
        """Within the `with`, give each of these blocks the changed stream."""

        thread = threading.get_ident()

        def hook_for(change: Callable[[Tensor], Tensor]) -> Callable:
            def hook(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
                # Another thread may run the model that a user holds.
                return replace_stream(args, kwargs, change) if threading.get_ident() == thread else None

            return hook

        with ExitStack() as stack:
            for layer, change in changes.items():
                block = self.blocks[layer]
                stack.callback(block.register_forward_pre_hook(hook_for(change), with_kwargs=True).remove)
            yield

    def _embeddings(self, start: int, stream: Tensor) -> Tensor:
        """Input embeddings for a pass that resumes at block `start`, where a hook inserts the stream."""
        if self._embedding_width == stream.shape[-1]:
            return stream
        return stream.new_zeros(*stream.shape[:-1], self._embedding_width)

    @contextmanager
    def _skipped_below(self, layer: int) -> Iterator[None]:
        """Within the `with`, blocks below `layer` return their input.

        The list of blocks stays whole, because networks look up masks and kinds of attention by block number.
        """
        length = self._length_returned() if layer else 0

        def hand_on(*args: Tensor, **kwargs: Any) -> Any:
            stream = args[0] if args else kwargs["hidden_states"]
            return (stream, *[None] * (length - 1)) if length else stream

        with ExitStack() as stack:
            for block in self.blocks[:layer]:
                # A device map sets a `forward` on the instance, which must be restored.
                own = vars(block).get("forward")
                undo = partial(setattr, block, "forward", own) if own else partial(delattr, block, "forward")
                stack.callback(undo)
                block.forward = hand_on
            yield

    def _length_returned(self) -> int:
        """0 if a block returns the stream itself, else the length of the tuple that begins with it."""
        if self._returned is None:

            def look(_: Any, __: Any, output: Any) -> None:
                self._returned = len(output) if isinstance(output, tuple) else 0

            with ExitStack() as stack:
                stack.callback(self.blocks[0].register_forward_hook(look).remove)
                ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
                self.model(input_ids=ids, use_cache=False)
        assert self._returned is not None  # the hook has run
        return self._returned

    def _asked(self, attention: Attention) -> dict[str, Any]:
        """The arguments that pass an attention to transformers."""
        if isinstance(attention, Causal):
            return {"use_cache": attention.keep} | (
                {"past_key_values": self._new_cache()} if attention.keep else {}
            )
        if isinstance(attention, AfterPrefix):
            cache, prefix = self._new_cache(), attention.prefix
            for block, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
                both = (side.expand(attention.rows, -1, -1, -1) for side in (keys, values))
                cache.update(*both, block)
            return {"use_cache": True, "past_key_values": cache}
        rows: Any = attention  # a batch's cache, which has the masks that transformers needs
        masks = {kind: rows.mask(window, self.dtype, always=True) for kind, window in self.windows.items()}
        return {
            "use_cache": True,
            "past_key_values": rows,
            "position_ids": rows.positions,
            "attention_mask": masks if len(masks) > 1 else next(iter(masks.values())),
        }


def replace_stream(
    args: tuple, kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> tuple[tuple, dict[str, Any]]:
    """A block's arguments with a changed stream, which some architectures pass by keyword."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}


def _has_layer_norms(block: nn.Module) -> bool:
    kinds = {type(module) for module in block.modules() if "norm" in type(module).__name__.lower()}
    return bool(kinds) and all(issubclass(kind, nn.LayerNorm) for kind in kinds)


def _windows(config: Any) -> dict[str, int | None]:
    """How many positions each kind of attention among the blocks sees; None for all."""
    window = getattr(config, "sliding_window", None)
    window = window if isinstance(window, int) else None
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        slides = window is not None and getattr(config, "use_sliding_window", True)
        kinds = ["sliding_attention" if slides else "full_attention"]
    return {kind: window if kind == "sliding_attention" else None for kind in dict.fromkeys(kinds)}
