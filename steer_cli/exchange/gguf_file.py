"""Read the tensors of a small .gguf file, such as a control vector.

Every count and length is checked against what is left of the file before it is used. The `gguf` package
does not do that, so a damaged file could keep it busy or make it fail with any exception.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from steer_cli.exchange.tensor import Tensor

# The types of values: a struct format, or one of the two that have a length of their own.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TENSOR_TYPES = {0: "F32", 1: "F16", 28: "F64", 30: "BF16"}
_MOST_ENTRIES = 1_000_000  # of a kind; a model's vocabulary has some 100,000
_MOST_DIMENSIONS = 4


def read_gguf(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, and those of the metadata that are texts.

    Raises:
        ValueError: the content is damaged or is no .gguf file; the message says how.
    """
    reader = _Reader(content)
    if content[:4] != b"GGUF":
        raise ValueError(f"it starts with {content[:4]!r}, not with b'GGUF'; fetch or make it again")
    reader.skip(4)
    version = reader.number("I")
    if version not in (2, 3):
        raise ValueError(f"version {version} of the format; versions 2 and 3 are read")
    tensors, entries = reader.count(), reader.count()
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = reader.text()
        metadata[key] = reader.value(reader.number("I"))
    infos = [_info(reader) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise ValueError(f"an alignment of {alignment}")
    start = -(-reader.offset // alignment) * alignment
    found: dict[str, Tensor] = {}
    for name, dtype, shape, offset in infos:
        tensor = Tensor(dtype, shape)
        if offset > len(content) or start + offset + tensor.size > len(content):
            raise ValueError(f"it ends within the tensor {name[:40]!r}; fetch it again")
        if name in found:
            raise ValueError(f"two tensors of the name {name[:40]!r}")
        found[name] = tensor.of(content[start + offset :][: tensor.size])
    return found, {key: value for key, value in metadata.items() if isinstance(value, str)}


def _info(reader: _Reader) -> tuple[str, str, tuple[int, ...], int]:
    name, dimensions = reader.text(), reader.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {dimensions} dimensions")
    # The fastest comes first; trailing ones say nothing.
    sizes = [reader.number("Q") for _ in range(dimensions)]
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    kind = reader.number("I")
    return name, _TENSOR_TYPES.get(kind, f"type {kind}"), tuple(reversed(sizes)), reader.number("Q")


@dataclass
class _Reader:
    """A place in the content; what would lead beyond its end raises ValueError."""

    content: bytes
    offset: int = 0

    def skip(self, size: int) -> int:
        """Move on by some bytes; return where they began."""
        start = self.offset
        if size > len(self.content) - start:
            raise ValueError("it ends too early; fetch it again")
        self.offset += size
        return start

    def number(self, kind: str) -> Any:
        return struct.unpack_from(f"<{kind}", self.content, self.skip(struct.calcsize(f"<{kind}")))[0]

    def count(self) -> int:
        count = self.number("Q")
        if count > _MOST_ENTRIES:
            raise ValueError(f"{count} entries of a kind; at most {_MOST_ENTRIES} are read")
        return count

    def text(self) -> str:
        length = self.number("Q")
        start = self.skip(length)
        return self.content[start : start + length].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """A number or a text; of an array, which nothing here needs, None."""
        if kind == _STRING:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ValueError(f"a value of the unknown type {kind}")
        inner, count = self.number("I"), self.count()
        if inner in _NUMBERS:
            self.skip(count * struct.calcsize(f"<{_NUMBERS[inner]}"))
        elif inner == _STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise ValueError(f"an array of the type {inner}")
        return None
