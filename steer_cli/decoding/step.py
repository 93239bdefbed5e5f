"""One decoding step: from one token per slot to logits per slot.

On a GPU, the step is recorded once as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from steer_cli.activations.change import Change
from steer_cli.activations.effect import ChangedRows
from steer_cli.decoding.kv_cache import KVCache
from steer_cli.networks.network import Network

Changes = Mapping[int, Change]  # layer -> what is done to each slot's stream, [slots, width]


class Step(Protocol):
    def __call__(self, tokens: Tensor, changes: Changes, changed: ChangedRows | None = None) -> Tensor:
        """Logits [slots, vocabulary], float32, perhaps for more slots than those in use.

        Args:
            tokens: [slots in use].
            changed: where to note which slots changed; a step with it is not replayed.
        """


def decode_step(network: Network, cache: KVCache) -> Step:
    """The fastest step on this device; all steps give the same logits."""
    if cache.fixed and network.device.type == "cuda":
        return _Graph(network, cache)
    return partial(run_step, network, cache)


def run_step(
    network: Network, cache: KVCache, tokens: Tensor, changes: Changes, changed: ChangedRows | None = None
) -> Tensor:
    """Run a step that the cache has begun; free slots that also run get an arbitrary token."""
    if len(tokens) < cache.used:
        tokens = torch.cat([tokens, tokens.new_zeros(cache.used - len(tokens))])

    def changing(layer: int, change: Change) -> Callable[[Tensor], Tensor]:
        used = change.each(lambda values: values[: cache.used, None])

        def replace(stream: Tensor) -> Tensor:
            after = used.of(stream)
            if changed is not None:
                changed.see(layer, stream, after)
            return after

        return replace

    asked = {layer: changing(layer, change) for layer, change in changes.items()}
    return network.next_logits(tokens[:, None], cache, asked).float()


def refuses_capture(error: RuntimeError) -> bool:
    """Whether a pass failed because it was being recorded, not because of a lack of memory or a bug.

    CUDA has no exception class for it: "operation not permitted when stream is capturing", "... unsupported
    during capture", and torch's "... during CUDA graph capture" are plain RuntimeErrors.
    """
    return "captur" in str(error).lower() and not isinstance(error, torch.OutOfMemoryError)


class _Graph:
    """The step over all slots as a CUDA graph, replayed without Python overhead on the same memory.

    The changes must therefore be in the same tensors each time.
    """

    def __init__(self, network: Network, cache: KVCache):
        self._network, self._cache = network, cache
        self._tokens = torch.zeros(cache.rows, dtype=torch.long, device=network.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded: dict[int, int] = {}  # layer -> how many tensors the recorded step reads there
        self._logits = torch.empty(0)
        self._refused = False

    def __call__(self, tokens: Tensor, changes: Changes, changed: ChangedRows | None = None) -> Tensor:
        self._tokens[: len(tokens)] = tokens
        if self._refused or changed is not None:
            return self._run(changes, changed)
        # CUDA streams and graphs belong to the current device, which need not be the network's.
        with torch.cuda.device(self._network.device):
            if self._graph is None or self._recorded != _tensors_of(changes):
                try:
                    self._graph = self._record(changes)
                except RuntimeError as error:
                    # Some models wait for the device during a pass, which a graph cannot record.
                    if not refuses_capture(error):
                        raise
                    self._refused = True
                    return self._run(changes)
            self._graph.replay()
        return self._logits

    def _run(self, changes: Changes, changed: ChangedRows | None = None) -> Tensor:
        self._cache.forget_masks()  # a graph must include the making of its masks
        return run_step(self._network, self._cache, self._tokens, changes, changed)

    def _record(self, changes: Changes) -> torch.cuda.CUDAGraph:
        # Warm-up passes on a side stream trigger lazy allocations in libraries; they write the same values to
        # the same positions as the replay will.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run(changes)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._run(changes)
        self._recorded = _tensors_of(changes)
        return graph


def _tensors_of(changes: Changes) -> dict[int, int]:
    return {layer: len(change.tensors) for layer, change in changes.items()}
