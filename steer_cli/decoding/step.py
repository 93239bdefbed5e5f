"""One decoding step: from one token per slot to logits per slot.

On a GPU, the step is recorded once as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from steer_cli.decoding.kv_cache import KVCache
from steer_cli.networks.network import Network

Deltas = Mapping[int, Tensor]  # layer -> its addition, [slots, width]
# Tokens [slots in use] and additions -> logits [slots, vocabulary], float32, perhaps for more slots.
Step = Callable[[Tensor, Deltas], Tensor]


def decode_step(network: Network, cache: KVCache) -> Step:
    """The fastest step on this device; all steps give the same logits."""
    if cache.fixed and network.device.type == "cuda":
        return _Graph(network, cache)
    return lambda tokens, deltas: run_step(network, cache, tokens, deltas)


def run_step(network: Network, cache: KVCache, tokens: Tensor, deltas: Deltas) -> Tensor:
    """Run a step that the cache has begun; free slots that also run get an arbitrary token."""
    if len(tokens) < cache.used:
        tokens = torch.cat([tokens, tokens.new_zeros(cache.used - len(tokens))])

    def adding(delta: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda stream: stream + delta[: cache.used, None].to(stream)

    changes = {layer: adding(delta) for layer, delta in deltas.items()}
    return network.next_logits(tokens[:, None], cache, changes).float()


def refuses_capture(error: RuntimeError) -> bool:
    """Whether a pass failed because it was being recorded, not because of a lack of memory or a bug.

    CUDA has no exception class for it: "operation not permitted when stream is capturing", "... unsupported
    during capture", and torch's "... during CUDA graph capture" are plain RuntimeErrors.
    """
    return "captur" in str(error).lower() and not isinstance(error, torch.OutOfMemoryError)


class _Graph:
    """The step over all slots as a CUDA graph, replayed without Python overhead on the same memory.

    The additions must therefore be in the same tensors each time.
    """

    def __init__(self, network: Network, cache: KVCache):
        self._network, self._cache = network, cache
        self._tokens = torch.zeros(cache.rows, dtype=torch.long, device=network.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._layers: set[int] = set()  # layers at which the recorded step adds
        self._logits = torch.empty(0)
        self._refused = False

    def __call__(self, tokens: Tensor, deltas: Deltas) -> Tensor:
        self._tokens[: len(tokens)] = tokens
        if self._refused:
            return self._run(deltas)
        # CUDA streams and graphs belong to the current device, which need not be the network's.
        with torch.cuda.device(self._network.device):
            if self._graph is None or self._layers != set(deltas):
                try:
                    self._graph = self._record(deltas)
                except RuntimeError as error:
                    # Some models wait for the device during a pass, which a graph cannot record.
                    if not refuses_capture(error):
                        raise
                    self._refused = True
                    return self._run(deltas)
            self._graph.replay()
        return self._logits

    def _run(self, deltas: Deltas) -> Tensor:
        self._cache.forget_masks()  # a graph must include the making of its masks
        return run_step(self._network, self._cache, self._tokens, deltas)

    def _record(self, deltas: Deltas) -> torch.cuda.CUDAGraph:
        # Warm-up passes on a side stream trigger lazy allocations in libraries; they write the same values to
        # the same positions as the replay will.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run(deltas)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._run(deltas)
        self._layers = set(deltas)
        return graph
