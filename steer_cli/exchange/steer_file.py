"""Write steer's own file of vectors.

The layout, version 1: a .safetensors file with a float32 tensor [positions, width] for each layer of each
addition. It is named `layer.L` for addition 0 and `layer.L.addition.I` for others; layer L is the stream
that enters block L, and the vector is unscaled. The metadata has `format: steer`, `version: 1` and any of
`model`, `revision`, `dtype`, `steer_version`, `recipe` (its YAML text), `recipe_sha256`, and `additions`: a
JSON list with an object for each addition, which has its `position`, `coefficient` and `operation`. Equal
content is equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.exchange.producers import Key
from steer_cli.exchange.whole_file import write_whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

VERSION = 1


def write_vectors(file: Path, vectors: Mapping[Key, ArrayLike], about: Mapping[str, str]) -> None:
    """Write vectors, [positions, width] or [width] each, by layer and addition; the file appears whole.

    Args:
        about: further metadata, such as model, revision, recipe, recipe_sha256 and additions.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(file, as_bytes(vectors, about), replace=True)


def as_bytes(vectors: Mapping[Key, ArrayLike], about: Mapping[str, str]) -> bytes:
    """The content of the file."""
    import numpy as np

    # Written here, since the library writes metadata in an order that changes from run to run.
    metadata = {**about, "format": "steer", "version": str(VERSION)}
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts: list[bytes] = []
    offset = 0
    for (layer, addition), vector in sorted(vectors.items(), key=lambda item: (item[0][0] or 0, item[0][1])):
        rows = np.atleast_2d(np.asarray(vector, dtype="<f4"))
        data = rows.tobytes()
        name = f"layer.{layer}" + (f".addition.{addition}" if addition else "")
        header[name] = {
            "dtype": "F32",
            "shape": list(rows.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(data)
        offset += len(data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)
