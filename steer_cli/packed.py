"""Weights laid out for a batch of one size, so that a float32 CPU multiplies them faster.

MKL rearranges a matrix each time it is used; for as many rows as a decoding batch has, that is a quarter of
the work. Here it is done once. This module does not know steering or decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from steer_cli.model import Model

# Below, the plain product is as fast; it takes about this many steps to make up for the packing.
FEWEST_ROWS = 8
FEWEST_STEPS = 30
# Bytes of weights that may be held twice; a model beyond is large against a laptop's memory.
MOST_BYTES = 1_000_000_000


Layers = tuple[nn.Linear, ...]  # that read the same stream
Product = Callable[[Tensor], Tensor]  # [..., inputs] -> [..., outputs of all layers, side by side]

# The latest packing of each network, and what it was made of: many runs of one model ask for the same.
_LATEST: WeakKeyDictionary[nn.Module, tuple[tuple, dict[Layers, Product]]] = WeakKeyDictionary()


def packed(model: Model, rows: int, together: Iterable[Layers] = ()) -> dict[Layers, Product]:
    """Products of a model's linear layers by packed copies of their weights, for batches of `rows`.

    With other rows they multiply by the weights as they are. The copies take as much memory again as the
    weights, and stay until another number of rows is asked for or the model goes.

    Args:
        together: layers that are to be one product, where they can; each of the others is one of its own.
    """
    linears = {
        module: None
        for module in model.network.modules()
        # One that is spread over devices has a forward of its own already.
        if type(module) is nn.Linear and "forward" not in vars(module)
    }
    joint = [layers for layers in together if linears.keys() >= set(layers) and _alike(layers)]
    single = linears.keys() - {linear for layers in joint for linear in layers}
    products = [*joint, *((linear,) for linear in linears if linear in single)]
    made_of = (rows, *(tuple(_state(linear.weight) for linear in layers) for layers in products))
    known, latest = _LATEST.get(model.network, (None, {}))
    if known != made_of:
        _LATEST.pop(model.network, None)  # not both at once in memory
        latest = {layers: _packed_product(layers, rows) for layers in products}
        _LATEST[model.network] = made_of, latest
    return latest


def _alike(layers: Layers) -> bool:
    return len({linear.bias is None for linear in layers}) == 1


def _state(weight: Tensor) -> tuple[int, int]:
    """Another one after the weight was changed in place; what was made for inference is not tracked."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


@contextmanager
def used(products: Mapping[Layers, Product]) -> Iterator[None]:
    """Within the `with`, the layers multiply by these products, none of which is of several layers."""
    for (linear,), product in products.items():
        linear.forward = product
    try:
        yield
    finally:
        for (linear,) in products:
            del linear.forward


def worth_packing(model: Model, rows: int, steps: int) -> bool:
    """Whether packing pays for a batch of `rows` over `steps` steps, has the memory, and can be done here."""
    return (
        rows >= FEWEST_ROWS
        and steps >= FEWEST_STEPS
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and sum(parameter.nbytes for parameter in model.network.parameters()) <= MOST_BYTES
        and torch.backends.mkl.is_available()
        and hasattr(torch.ops.mkl, "_mkl_reorder_linear_weight")
    )


def _packed_product(layers: Layers, rows: int) -> Product:
    weight, bias = layers[0].weight, layers[0].bias
    if len(layers) > 1:
        weight = torch.cat([linear.weight for linear in layers])
        bias = None if bias is None else torch.cat([linear.bias for linear in layers])
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    # The operator wants the weight too, for other rows than these; of this one it sees the shape alone.
    shape = weight.new_empty(1).expand(weight.shape)
    return partial(_multiply, layers, packed, shape, bias, rows)


def _multiply(
    layers: Layers, packed: Tensor, shape: Tensor, bias: Tensor | None, rows: int, stream: Tensor
) -> Tensor:
    if stream.shape[:-1].numel() == rows:
        return torch.ops.mkl._mkl_linear(stream, packed, shape, bias, rows)
    parts = [functional.linear(stream, linear.weight, linear.bias) for linear in layers]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
