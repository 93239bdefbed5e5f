"""One decoding step: a token for each slot -> logits for each slot.

On a GPU the step is recorded once as a CUDA graph and replayed. This module does not know what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from steer_cli.decoding.kv_cache import Slots
from steer_cli.models.load import Model
from steer_cli.networks.lean import LeanStep, can_be_lean, readers
from steer_cli.networks.packed import Layers, Product, can_be_packed, packed, used, worth_packing
from steer_cli.steering.residual import inject

Deltas = Mapping[int, Tensor]  # layer -> what is added there, [slots, width]


class Ahead(NamedTuple):
    """What is to come: the slots that the running rows may need, and the steps that they may take."""

    slots: int
    steps: int


# Tokens [slots], what is added in each, what is to come -> logits [slots, vocabulary], float32, perhaps of
# more slots.
Step = Callable[[Tensor, Deltas, Ahead], Tensor]

# Packed weights are for one number of slots; while not more of them than these are free, in number and as a
# share, they run beside the others, as that is quicker than weights that are not packed.
MOST_FREE, FREE_SHARE = 16, 0.6


def decode_step(model: Model, slots: Slots, pack: bool) -> Step:
    """The quickest step that this device has; all give the same logits.

    Args:
        pack: hold the weights twice where that is quicker.
    """
    if slots.fixed and model.device.type == "cuda":
        return _Graph(model, slots)
    return _Eager(model, slots, pack)


class _Eager:
    """The step pass by pass, with weights packed where that pays: once enough slots run, for all to come."""

    def __init__(self, model: Model, slots: Slots, pack: bool):
        self._model, self._slots = model, slots
        self._may_pack = pack and can_be_packed(model)
        self._products: dict[Layers, Product] = {}
        self._most = self._packed_for = 0  # slots
        self._lean = LeanStep(model, slots, {}) if can_be_lean(model) else None

    def __call__(self, tokens: Tensor, deltas: Deltas, ahead: Ahead) -> Tensor:
        slots = self._slots
        self._most = max(self._most, ahead.slots)
        if self._may_pack and slots.used >= _enough(self._most) and worth_packing(self._most, ahead.steps):
            self._pack()
        if slots.used >= _enough(self._packed_for):
            slots.run_at_least(self._packed_for)
        if self._lean is not None:
            return self._lean(*_fitted(slots.used, tokens, deltas))
        with used(self._products):
            return _forward(self._model, slots, tokens, deltas)

    def _pack(self) -> None:
        self._may_pack = False
        together = None if self._lean is None else readers(self._model)
        self._products, self._packed_for = packed(self._model, self._most, together), self._most
        if self._lean is not None:
            self._lean = LeanStep(self._model, self._slots, self._products)


def _enough(slots: int) -> float:
    """Of the slots that weights are packed for, how many have to run for the packed ones to be quicker."""
    return slots - min(MOST_FREE, FREE_SHARE * slots)


def _fitted(rows: int, tokens: Tensor, deltas: Deltas) -> tuple[Tensor, Deltas]:
    """What is needed for the slots that run: any tokens for those that are free."""
    if len(tokens) < rows:
        tokens = torch.cat([tokens, tokens.new_zeros(rows - len(tokens))])
    return tokens, {layer: delta[:rows] for layer, delta in deltas.items()}


def _forward(model: Model, slots: Slots, tokens: Tensor, deltas: Deltas) -> Tensor:
    tokens, deltas = _fitted(slots.used, tokens, deltas)
    # The hooks do not outlive the pass, since others may run the model between two steps.
    with inject(model, {layer: delta[:, None] for layer, delta in deltas.items()}):
        logits = model.network(
            input_ids=tokens[:, None],
            position_ids=slots.lengths[: slots.used, None],
            attention_mask=slots.mask(model.dtype),
            past_key_values=slots,
            use_cache=True,
        ).logits
    return logits[:, -1].float()


def refuses_capture(error: RuntimeError) -> bool:
    """Whether a pass failed because it was being recorded, and not for want of memory or by a bug.

    CUDA has no class of its own for it: "operation not permitted when stream is capturing", "... unsupported
    during capture", and torch's "... during CUDA graph capture" are RuntimeErrors like any other.
    """
    return "captur" in str(error).lower() and not isinstance(error, torch.OutOfMemoryError)


class _Graph:
    """The step over all slots as a CUDA graph: replayed without work for Python, on the same memory.

    So what is added has to be in the same tensors each time.
    """

    def __init__(self, model: Model, slots: Slots):
        self._model, self._slots = model, slots
        self._tokens = torch.zeros(slots.rows, dtype=torch.long, device=model.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._layers: set[int] = set()  # where the recorded step adds
        self._logits: Tensor | None = None
        self._refused = False

    def __call__(self, tokens: Tensor, deltas: Deltas, _: Ahead) -> Tensor:
        if self._refused:
            return _forward(self._model, self._slots, tokens, deltas)
        self._tokens[: len(tokens)] = tokens
        # Streams and graphs belong to the current device, which need not be the model's.
        with torch.cuda.device(self._model.device):
            if self._graph is None or self._layers != set(deltas):
                try:
                    self._record(deltas)
                except RuntimeError as error:
                    # Some models wait for the device within a pass, which no graph can hold.
                    if not refuses_capture(error):
                        raise
                    self._refused = True
                    return _forward(self._model, self._slots, tokens, deltas)
            self._graph.replay()
        return self._logits

    def _record(self, deltas: Deltas) -> None:
        # The first passes on a side stream make what libraries allocate lazily; they write the same values
        # to the same positions as the replay will.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                _forward(self._model, self._slots, self._tokens, deltas)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = _forward(self._model, self._slots, self._tokens, deltas)
        self._graph, self._layers = graph, set(deltas)
