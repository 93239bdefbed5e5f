"""Weights laid out for a batch of one size, so that a float32 CPU multiplies them faster.

MKL rearranges a matrix each time it is used; for as many rows as a decoding batch has, that is a quarter of
the work. Here it is done once. This module does not know steering or decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steer_cli.model import Model

# Below, the plain product is as fast; it takes about this many steps to make up for the packing.
FEWEST_ROWS = 8
FEWEST_STEPS = 30
# Bytes of weights that may be held twice; a model beyond is large against a laptop's memory.
MOST_BYTES = 1_000_000_000


Product = Callable[[Tensor], Tensor]  # what a linear layer does: [..., inputs] -> [..., outputs]

# The latest packing of each network, and what it was made of: many runs of one model ask for the same.
_LATEST: WeakKeyDictionary[nn.Module, tuple[tuple, dict[nn.Linear, Product]]] = WeakKeyDictionary()


def packed(model: Model, rows: int) -> dict[nn.Linear, Product]:
    """Products of a model's linear layers by packed copies of their weights, for batches of `rows`.

    With other rows they multiply by the weights as they are. The copies take as much memory again as the
    weights, and stay until another number of rows is asked for or the model goes.
    """
    linears = [
        module
        for module in model.network.modules()
        # One that is spread over devices has a forward of its own already.
        if type(module) is nn.Linear and "forward" not in vars(module)
    ]
    made_of = (rows, *(_state(linear.weight) for linear in linears))
    known, products = _LATEST.get(model.network, (None, {}))
    if known != made_of:
        _LATEST.pop(model.network, None)  # not both at once in memory
        products = {
            linear: partial(_multiply, _pack(linear.weight, rows), linear.weight, linear.bias, rows)
            for linear in linears
        }
        _LATEST[model.network] = made_of, products
    return products


def _state(weight: Tensor) -> tuple[int, int]:
    """Another one after the weight was changed in place; what was made for inference is not tracked."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


@contextmanager
def used(products: Mapping[nn.Linear, Product]) -> Iterator[None]:
    """Within the `with`, the layers multiply by these products."""
    for module, product in products.items():
        module.forward = product
    try:
        yield
    finally:
        for module in products:
            del module.forward


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


def _pack(weight: Tensor, rows: int) -> Tensor:
    return torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)


def _multiply(packed: Tensor, weight: Tensor, bias: Tensor | None, rows: int, stream: Tensor) -> Tensor:
    # Falls back to the plain product itself where the rows are not those it was packed for.
    return torch.ops.mkl._mkl_linear(stream, packed, weight, bias, rows)
