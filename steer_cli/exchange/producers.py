"""What a tensor's name says: the steer layer that a stored direction is added at.

Layer L is the stream that enters block L, which is the output of block L - 1. llama.cpp and repeng number
their directions by the block at whose output they are added, as steering-lite does. cvector-generator records
at block i and stores `direction.(i + 1)`; what counts is where llama.cpp then adds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

STEER, REPENG, LLAMA_CPP, STEERING_LITE = "steer", "repeng", "llama.cpp", "steering-lite"
SUFFIXES = {
    STEER: ".safetensors",
    REPENG: ".gguf",
    LLAMA_CPP: ".gguf",
    STEERING_LITE: ".safetensors",
}
_NUMBER = r"(0|[1-9][0-9]{0,5})"
_OURS = re.compile(rf"layer\.{_NUMBER}(?:\.addition\.{_NUMBER})?")
_DIRECTION = re.compile(rf"direction\.{_NUMBER}")
_LITE = re.compile(rf"layer{_NUMBER}\.v")
# The methods of steering-lite that add `v`; others do more with it, or something else.
_ADDING = ("mean_diff", "pca")

Key = tuple[int | None, int]  # the layer, None where the file says none; and the addition


def stated(suffix: str, metadata: Mapping[str, str]) -> str | None:
    """What made a file, as far as it says so itself.

    Raises:
        ValueError: it says that its vectors are not to be added, or is of a later version.
    """
    if suffix == ".safetensors" and metadata.get("format") == "steer":
        if metadata.get("version", "1") != "1":
            raise ValueError(
                f"of version {metadata['version'][:40]!r} of the format, and this steer reads version 1; "
                "use a newer steer"
            )
        return STEER
    try:
        settings = json.loads(metadata.get("cfg", "null"))
    except (ValueError, RecursionError):
        return None
    if suffix == ".safetensors" and isinstance(settings, dict) and "method" in settings:
        method = settings["method"]
        if method not in _ADDING:
            raise ValueError(
                f"made with steering-lite's method {str(method)[:40]!r}, which does not add one vector; "
                f"only {' and '.join(_ADDING)} do"
            )
        return STEERING_LITE
    return None


def looks_like(name: str) -> str | None:
    """The tool whose names for tensors look like this one."""
    for origin, pattern in ((STEER, _OURS), (STEERING_LITE, _LITE)):
        if pattern.fullmatch(name):
            return origin
    return None


def key_of(name: str, origin: str) -> Key:
    """The steer layer and the addition that a tensor belongs to.

    Raises:
        ValueError: the tool gives its tensors no such names; the message says which.
    """
    if origin == STEER:
        found, right = _OURS.fullmatch(name), "layer.6, or layer.6.addition.1"
    elif origin == STEERING_LITE:
        found, right = _LITE.fullmatch(name), "layer6.v"
    else:
        found, right = _DIRECTION.fullmatch(name), "direction.6"
    if found is None:
        raise ValueError(f"the tensor {name[:60]!r} is none of {origin}'s, which are named like {right}")
    number = int(found[1])
    if origin == STEER:
        return number, int(found[2] or 0)
    if origin == LLAMA_CPP and number == 0:
        raise ValueError(
            "direction.0: llama.cpp takes no file with it; if repeng made it, write `from: repeng`"
        )
    return number + 1, 0
