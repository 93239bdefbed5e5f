"""Evidence for searches on tiny models."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

WORDS = {
    "toward": ["bride", "veil", "cake", "vow", "ring", "dress", "guest", "toast"],
    "away": ["ship", "crane", "dock", "port", "crew", "cargo", "rope", "tide"],
    "neutral": ["lamp", "road", "bread", "clock", "field", "glass", "paper", "stone"],
}


@pytest.fixture(scope="session")
def evidence_files(tmp_path_factory) -> dict[str, Path]:
    """Forty sentences each of three subjects, drawn from few words."""
    folder, draw = tmp_path_factory.mktemp("evidence"), random.Random(3)
    files = {}
    for name, words in WORDS.items():
        lines = {
            f"The {' and the '.join(draw.choices(words, k=draw.randint(2, 4)))} waited." for _ in range(60)
        }
        files[name] = folder / f"{name}.txt"
        files[name].write_text("\n".join(sorted(lines)[:40]), encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def tiny_llama(tiny_folder) -> Path:
    import torch

    # Passes over a tiny model are milliseconds of work, which threads only slow down.
    torch.set_num_threads(1)
    return tiny_folder("llama")
