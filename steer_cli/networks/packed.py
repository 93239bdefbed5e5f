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

from steer_cli.models.load import Model

# Below, the plain product is as fast; it takes about this many steps to make up for the packing.
FEWEST_ROWS = 8
FEWEST_STEPS = 30
# Bytes of weights that may be held twice; a model beyond is large against a laptop's memory.
MOST_BYTES = 1_000_000_000


Layers = tuple[nn.Linear, ...]  # that read the same stream
Product = Callable[[Tensor], Tensor]  # [..., inputs] -> [..., outputs of all layers, side by side]

# The latest packing of each network, and what it was made of: many runs of one model ask for the same.
_LATEST: WeakKeyDictionary[nn.Module, tuple[tuple, dict[Layers, Product]]] = WeakKeyDictionary()


def packed(model: Model, rows: int, readers: Mapping[Layers, Tensor] | None = None) -> dict[Layers, Product]:
    """Products of a model's linear layers by packed copies of their weights, for batches of `rows`.

    With other rows they multiply by the weights as they are. The copies take as much memory again as the
    weights, and stay until another number of rows is asked for or the model goes.

    Args:
        readers: layers that are to be one product, where they can, of a stream that has yet to be
            multiplied by these weights [inputs]; each of the other layers is a product of its own.
    """
    linears = {
        module: None
        for module in model.network.modules()
        # One that is spread over devices has a forward of its own already.
        if type(module) is nn.Linear and "forward" not in vars(module)
    }
    scales: dict[Layers, Tensor | None] = {
        layers: scale
        for layers, scale in (readers or {}).items()
        if linears.keys() >= set(layers) and len({linear.bias is None for linear in layers}) == 1
    }
    single = linears.keys() - {linear for layers in scales for linear in layers}
    scales |= {(linear,): None for linear in linears if linear in single}
    made_of = (rows, *(_state(layers, scale) for layers, scale in scales.items()))
    known, products = _LATEST.get(model.network, (None, {}))
    if known != made_of:
        _LATEST.pop(model.network, None)  # not both at once in memory
        products = {layers: _packed_product(layers, scale, rows) for layers, scale in scales.items()}
        _LATEST[model.network] = made_of, products
    return products


def _state(layers: Layers, scale: Tensor | None) -> tuple:
    """Another one after a weight was changed in place; what was made for inference is not tracked."""
    tensors = [scale, *(tensor for linear in layers for tensor in (linear.weight, linear.bias))]
    return tuple(
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for tensor in tensors
        if tensor is not None
    )


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


def worth_packing(rows: int, steps: int) -> bool:
    """Whether packing pays for a batch of `rows` over `steps` more steps."""
    return rows >= FEWEST_ROWS and steps >= FEWEST_STEPS


def can_be_packed(model: Model) -> bool:
    """Whether there is the memory, and it can be done here."""
    return (
        model.device.type == "cpu"
        and model.dtype == torch.float32
        and sum(parameter.nbytes for parameter in model.network.parameters()) <= MOST_BYTES
        and torch.backends.mkl.is_available()
        and hasattr(torch.ops.mkl, "_mkl_reorder_linear_weight")
    )


def _packed_product(layers: Layers, scale: Tensor | None, rows: int) -> Product:
    weight, bias = layers[0].weight, layers[0].bias
    if len(layers) > 1:
        weight = torch.cat([linear.weight for linear in layers])
        bias = None if bias is None else torch.cat([linear.bias for linear in layers])
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight if scale is None else weight * scale, rows)
    # The operator wants the weight too, for other rows than these; of this one it sees the shape alone.
    shape = weight.new_empty(1).expand(weight.shape)
    return partial(_multiply, plain(layers, scale), packed, shape, bias, rows)


def _multiply(
    otherwise: Product, packed: Tensor, shape: Tensor, bias: Tensor | None, rows: int, stream: Tensor
) -> Tensor:
    if stream.shape[:-1].numel() == rows:
        return torch.ops.mkl._mkl_linear(stream, packed, shape, bias, rows)
    return otherwise(stream)


def plain(layers: Layers, scale: Tensor | None = None) -> Product:
    """The product as the layers make it themselves, of a stream that `scale` has yet to multiply."""
    # As they are now: within `used` their forward is another one.
    forwards = [linear.forward for linear in layers]

    def product(stream: Tensor) -> Tensor:
        stream = stream if scale is None else stream * scale
        parts = [forward(stream) for forward in forwards]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    return product
