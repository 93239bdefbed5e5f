"""Linear products, each computed the fastest way on this machine.

All ways agree up to rounding. The packed ways are private operators of torch: if a release has dropped one,
its way is unavailable, which costs speed, not correctness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

Product = Callable[[Tensor], Tensor]  # [..., inputs] -> [..., outputs]
PACKED_FOR = 16  # rows given to oneDNN, whose layout works as well for any other number


def plain(weight: Tensor, bias: Tensor | None) -> Product:
    return lambda stream: linear(stream, weight, bias)


def transposed(weight: Tensor, bias: Tensor | None) -> Product:
    """Compute weights times rows, which some libraries do faster than rows times weights."""

    def product(stream: Tensor) -> Tensor:
        rows = stream.reshape(-1, weight.shape[1])
        made = (weight @ rows.T).T.contiguous().view(*stream.shape[:-1], -1)
        return made if bias is None else made.add_(bias)

    return product


def onednn(weight: Tensor, bias: Tensor | None) -> Product:
    """Use a copy of the weights packed by oneDNN for its own loops."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda stream: multiply(stream, packed, bias, "none", [], "")


def mkl(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    """Use a copy packed by MKL for passes of `rows` rows; other numbers of rows use the plain product."""
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), rows)
    multiply, otherwise = torch.ops.mkl._mkl_linear, plain(weight, bias)
    # The operator also needs the weights, for other numbers of rows; for `rows` it only reads their shape.
    shape = weight.new_empty(1).expand(weight.shape)

    def product(stream: Tensor) -> Tensor:
        if stream.shape[:-1].numel() != rows:
            return otherwise(stream)
        return multiply(stream, packed, shape, bias, rows)

    return product


class Way(NamedTuple):
    """One way to multiply: its name, and the number of rows that its weights are packed for (0: any)."""

    name: str
    rows: int = 0

    def product(self, weight: Tensor, bias: Tensor | None) -> Product:
        """A function that multiplies by these weights; packing them takes about as long as reading them."""
        if self.name == "mkl":
            return mkl(weight, bias, self.rows)
        return {"plain": plain, "transposed": transposed, "onednn": onednn}[self.name](weight, bias)


PLAIN, TRANSPOSED, ONEDNN = Way("plain"), Way("transposed"), Way("onednn")


def available(dtype: torch.dtype) -> tuple[Way, ...]:
    """The ways for any number of rows on this CPU and in this precision."""
    there = [PLAIN, TRANSPOSED]
    if torch.backends.mkldnn.is_available() and _has("mkldnn", "_reorder_linear_weight", "_linear_pointwise"):
        whole = dtype == torch.float32
        half = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        there += [ONEDNN] if whole or half else []
    return tuple(there)


def mkl_packs(dtype: torch.dtype) -> bool:
    """Whether MKL can pack weights for a number of rows."""
    names = ("_mkl_reorder_linear_weight", "_mkl_linear")
    return dtype == torch.float32 and torch.backends.mkl.is_available() and _has("mkl", *names)


def _has(library: str, *operators: str) -> bool:
    return all(hasattr(getattr(torch.ops, library), name) for name in operators)


class Linear:
    """y = x W^T + b.

    Args:
        weight: [outputs, inputs].
        bias: [outputs], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight, bias
        self._up_to: list[tuple[int, Product]] = []  # largest number of rows, and its product
        self._beyond = plain(weight, bias)
        self._packed: tuple[int, Product] | None = None  # for exactly so many rows

    def lay_out(self, ways: Mapping[int, Way], keep: bool = True) -> None:
        """Multiply up to each number of rows by that way; the greatest also serves all beyond.

        Args:
            keep: whether `pack_for` may be called later; otherwise only copies that `ways` made are held.
        """
        made = {way: way.product(self.weight, self.bias) for way in set(ways.values())}
        steps = [(most, made[way]) for most, way in sorted(ways.items())]
        # Neighbours with the same way share an entry.
        after = [*[product for _, product in steps[1:]], None]
        self._up_to = [step for step, other in zip(steps, after, strict=True) if step[1] is not other]
        self._beyond = self._up_to.pop()[1]
        if not keep:
            # Only the shape is asked for from now on; ways that need the weights hold them themselves.
            self.weight = self.weight.new_empty(1).expand(self.weight.shape)

    def pack_for(self, rows: int) -> None:
        """Also keep a copy of the weights packed by MKL for passes of exactly this many rows."""
        self._packed = (rows, Way("mkl", rows).product(self.weight, self.bias))

    def __call__(self, stream: Tensor) -> Tensor:
        if self._up_to or self._packed:
            rows = stream.shape[:-1].numel()
            if self._packed and rows == self._packed[0]:
                return self._packed[1](stream)
            for most, product in self._up_to:
                if rows <= most:
                    return product(stream)
        return self._beyond(stream)
