"""By which digest a model is known again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from steer_cli.errors import ModelError
from steer_cli.models import atomic_folder
from steer_cli.models.fingerprint import sha256_of
from steer_cli.models.located import Located

# The files in a model's folder on which the figures depend.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")


def fingerprint(located: Located, patterns: Sequence[str]) -> str:
    """Distinguish models of the same name by the bytes of their files, or by the hub's commit."""
    files = sorted(file for pattern in patterns for file in located.folder.glob(pattern) if file.is_file())
    folder = located.folder
    commit = folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name)
    # The hub's cache holds links; a plain file among them may hold anything.
    if commit and all(file.is_symlink() for file in files):
        return folder.name[:16]
    memory = atomic_folder.memory()
    try:
        return digest([(file.name, sha256_of(file, memory)) for file in files])
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}: the model's files must be readable") from None


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
