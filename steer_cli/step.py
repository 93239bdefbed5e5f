"""One decoding step: a token for each row -> logits for each row.

On a GPU the step is recorded once as a CUDA graph and replayed. This module does not know what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from steer_cli.model import Model
from steer_cli.packed import PackedLinears, worth_packing
from steer_cli.slots import Slots

Step = Callable[[Tensor], Tensor]  # tokens [rows] -> logits [rows, vocabulary], float32


def decode_step(model: Model, slots: Slots, steps: int) -> Step:
    """The quickest step that this device has for rows of up to `steps` tokens; all give the same logits."""
    if slots.fixed and model.device.type == "cuda":
        return _Graph(model, slots)
    return _Plain(model, slots, steps)


class _Plain:
    """The step as a pass of the model, with its weights packed for the rows of the first one."""

    def __init__(self, model: Model, slots: Slots, steps: int):
        self._model, self._slots, self._steps = model, slots, steps
        self._packed: PackedLinears | None = None
        self._begun = False

    def __call__(self, tokens: Tensor) -> Tensor:
        if not self._begun and worth_packing(self._model, self._slots.used, self._steps):
            self._packed = PackedLinears(self._model, self._slots.used)
        self._begun = True
        with self._packed.used() if self._packed else nullcontext():
            return _forward(self._model, self._slots, tokens)


def _forward(model: Model, slots: Slots, tokens: Tensor) -> Tensor:
    used = slots.used
    if len(tokens) < used:
        tokens = torch.cat([tokens, tokens.new_zeros(used - len(tokens))])
    logits = model.network(
        input_ids=tokens[:, None],
        position_ids=slots.lengths[:used, None],
        attention_mask=slots.mask(model.dtype),
        past_key_values=slots,
        use_cache=True,
    ).logits
    return logits[:, -1].float()


class _Graph:
    """The step over all slots as a CUDA graph: replayed without work for Python, on the same memory."""

    def __init__(self, model: Model, slots: Slots):
        self._model, self._slots = model, slots
        self._tokens = torch.zeros(slots.rows, dtype=torch.long, device=model.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self._refused = False

    def __call__(self, tokens: Tensor) -> Tensor:
        if self._refused:
            return _forward(self._model, self._slots, tokens)
        self._tokens[: len(tokens)] = tokens
        # Streams and graphs belong to the current device, which need not be the model's.
        with torch.cuda.device(self._model.device):
            if self._graph is None:
                try:
                    self._record()
                except RuntimeError:
                    # Some models wait for the device within a pass, which no graph can hold.
                    self._refused = True
                    return _forward(self._model, self._slots, tokens)
            self._graph.replay()
        return self._logits

    def _record(self) -> None:
        # The first passes on a side stream make what libraries allocate lazily; they write the same values
        # to the same positions as the replay will.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                _forward(self._model, self._slots, self._tokens)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = _forward(self._model, self._slots, self._tokens)
        self._graph = graph
