"""A tensor of a file as bytes, and its values as float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float32]]

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes per value, of the types that are read


@dataclass(frozen=True)
class Tensor:
    """Little-endian values of one type, in the shape of the file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = b""

    @property
    def size(self) -> int:
        """How many bytes the values take; 0 for a type that is not read."""
        return SIZES.get(self.dtype, 0) * prod(self.shape)

    def of(self, data: bytes) -> Tensor:
        """The tensor with its values."""
        return replace(self, data=data)

    def values(self) -> Array:
        """The values as float32, in the tensor's shape.

        Raises:
            ValueError: the type is not one of SIZES.
        """
        import numpy as np

        if self.dtype not in SIZES:
            raise ValueError(f"is of {self.dtype}; {', '.join(SIZES)} are read: save it as F32")
        if self.dtype == "BF16":
            # The upper half of a float32.
            wide = np.frombuffer(self.data, "<u2").astype("<u4") << 16
            found = wide.view("<f4")
        else:
            found = np.frombuffer(self.data, f"<f{SIZES[self.dtype]}")
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite, and is told
            return found.astype(np.float32).reshape(self.shape)
