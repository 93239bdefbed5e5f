"""Read stored vectors: steer's .safetensors, control vectors in .gguf, and files of other tools.

Nothing is unpickled. What is wrong with a file is one line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.errors import VectorFileError
from steer_cli.exchange.gguf_file import read_gguf
from steer_cli.exchange.producers import LLAMA_CPP, SUFFIXES, Key, key_of, looks_like, stated
from steer_cli.exchange.tensor import Tensor

if TYPE_CHECKING:
    from steer_cli.exchange.tensor import Array

MOST_BYTES = 256_000_000  # 100 layers of 8192 values are 3,000,000
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
FORMATS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class StoredVectors:
    """The vectors of a file, by layer and addition, [positions, width] each, all of one width.

    The layer is None in a file of one direction that says none.
    """

    sha256: str
    origin: str | None  # what made it
    vectors: Mapping[Key, Array] = field(compare=False, repr=False)
    metadata: Mapping[str, str] = field(compare=False, repr=False)

    @property
    def additions(self) -> tuple[int, ...]:
        return tuple(sorted({addition for _, addition in self.vectors}))

    def of(self, addition: int) -> dict[int | None, Array]:
        """layer -> the vector of one addition, layers rising."""
        found = {layer: vector for (layer, index), vector in self.vectors.items() if index == addition}
        return dict(sorted(found.items(), key=lambda item: item[0] or 0))


def read_vectors(file: Path, origin: str | None = None) -> StoredVectors:
    """Read and check a file of vectors.

    Args:
        origin: what made it, where the file does not say.

    Raises:
        VectorFileError: it cannot be read, or its vectors cannot be added.
    """
    suffix = file.suffix.lower()
    if suffix in PICKLED:
        raise VectorFileError(
            f"{file}: pickles are not read, since they can run any code; save its tensors with "
            "safetensors.torch.save_file, as docs/directions.md shows"
        )
    if suffix not in FORMATS:
        raise VectorFileError(f"{file}: not a file of vectors; give one that ends in {' or '.join(FORMATS)}")
    try:
        found = os.stat(file)
        if not file.is_file():
            kind = "a folder" if file.is_dir() else "not a regular file"
            raise VectorFileError(f"{file}: {kind}; give a {suffix} file of vectors")
        return _read(file, origin, (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    except OSError as error:
        raise VectorFileError(f"{file}: {error.strerror or error}; give a file that can be read") from None
    except ValueError as error:
        raise VectorFileError(f"{file}: {error}") from None


# A sweep plans the same recipe at every point.
@lru_cache(maxsize=8)
def _read(file: Path, origin: str | None, _facts: tuple[int, ...]) -> StoredVectors:
    """Read a file; `_facts` tell when it has changed.

    Raises:
        OSError: it cannot be read.
        ValueError: what is wrong with it.
    """
    with open(file, "rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes, too many for vectors; is it a model?")
    suffix = file.suffix.lower()
    tensors, metadata = (read_gguf if suffix == ".gguf" else _read_safetensors)(content)
    if not tensors:
        raise ValueError("no tensors in it; give a file of vectors")
    origin = _origin(tensors, suffix, metadata, origin)
    vectors: dict[Key, Array] = {}
    for name, tensor in sorted(tensors.items()):
        key: Key = (None, 0) if origin is None else key_of(name, origin)
        if key in vectors:
            raise ValueError(f"two tensors for layer {key[0]}, addition {key[1]}; leave one of them")
        vectors[key] = _rows(name, tensor, positions=suffix == ".safetensors")
    _check_together(vectors)
    return StoredVectors(hashlib.sha256(content).hexdigest(), origin, vectors, metadata)


def _origin(
    tensors: Mapping[str, Tensor], suffix: str, metadata: Mapping[str, str], given: str | None
) -> str | None:
    """What made the file; None for one direction that no tool's name says more of."""
    says = stated(suffix, metadata)
    if given is not None and SUFFIXES[given] != suffix:
        raise ValueError(f"from: {given} writes {SUFFIXES[given]} files; remove it")
    if given is not None and says is not None and given != says:
        raise ValueError(f"from: {given}, but the file says that {says} made it; remove it")
    if given is not None or says is not None:
        return given or says
    if suffix == ".gguf":
        return LLAMA_CPP
    likely = next(filter(None, map(looks_like, sorted(tensors))), None)
    if len(tensors) > 1 or likely is not None:
        remedy = f"if {likely} made it, write `from: {likely}`" if likely else "write `from: ...`"
        raise ValueError(f"it does not say what made it, and so what its layers mean; {remedy}")
    return None


def _read_safetensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(content)
    except SafetensorError as error:
        said = " ".join(str(error).split()).removeprefix("Error while deserializing: ")[:120]
        raise ValueError(f"not readable as safetensors: {said}; fetch or make it again") from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors = {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in entries
    }
    return tensors, dict(header.get("__metadata__") or {})


def _rows(name: str, tensor: Tensor, positions: bool) -> Array:
    """A tensor as [positions, width]; a .gguf file has no positions."""
    import numpy as np

    shown = repr(name[:60])
    dimensions = len(tensor.shape)
    if dimensions not in ((1, 2) if positions else (1,)) or 0 in tensor.shape:
        right = "[width] or [positions, width]" if positions else "[width]"
        raise ValueError(f"the tensor {shown} has the shape {list(tensor.shape)}; a vector has {right}")
    try:
        values = tensor.values()
    except ValueError as error:
        raise ValueError(f"the tensor {shown} {error}") from None
    if not np.isfinite(values).all():
        raise ValueError(f"the tensor {shown} holds NaN or infinity; make the vector again")
    rows = values.reshape(-1, tensor.shape[-1])
    rows.setflags(write=False)
    return rows


def _check_together(vectors: Mapping[Key, Array]) -> None:
    widths = {vector.shape[1] for vector in vectors.values()}
    if len(widths) > 1:
        raise ValueError(
            f"vectors of several widths, {min(widths)} and {max(widths)}; give those of one model"
        )
    for addition in {addition for _, addition in vectors}:
        counts = {len(vector) for (_, index), vector in vectors.items() if index == addition}
        if len(counts) > 1:
            raise ValueError(
                f"vectors of {min(counts)} and of {max(counts)} positions in one addition; store them apart"
            )
    if not any(vector.any() for vector in vectors.values()):
        raise ValueError("all zeros; make the vectors again")
