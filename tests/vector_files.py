"""Files of vectors written by hand, byte by byte, as other tools write them."""

import json
import struct
from pathlib import Path

import numpy as np

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def raw(values, dtype: str) -> bytes:
    values = np.asarray(values, dtype="<f4")
    if dtype == "BF16":
        return (values.view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype(FLOATS[dtype]).tobytes()


def safetensors(file: Path, tensors: dict, metadata: dict | None = None, dtype: str = "F32") -> Path:
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, values in tensors.items():
        content = raw(values, dtype)
        ends = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(np.shape(values)), "data_offsets": ends}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def gguf(file: Path, tensors: dict, dtype: str = "F32", kind: int | None = None) -> Path:
    """As cvector-generator and repeng write them: three keys, then `direction.N`."""
    kind = {"F32": 0, "F16": 1, "F64": 28, "BF16": 30}[dtype] if kind is None else kind
    entries = [
        _text("general.architecture") + struct.pack("<I", 8) + _text("controlvector"),
        _text("controlvector.model_hint") + struct.pack("<I", 8) + _text("llama"),
        _text("controlvector.layer_count") + struct.pack("<II", 4, len(tensors)),
        _text("an.array") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + _text("b"),
        _text("numbers") + struct.pack("<IIQIII", 9, 4, 3, 1, 2, 3),
    ]
    infos, data = b"", b""
    for name, values in tensors.items():
        shape = np.shape(values)
        infos += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        infos += struct.pack("<IQ", kind, len(data))
        data += raw(values, dtype)
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + infos
    file.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return file
