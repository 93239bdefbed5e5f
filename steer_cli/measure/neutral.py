"""The neutral text that ships: sentences on ordinary subjects, on which steering should change little."""

from __future__ import annotations

from pathlib import Path

from steer_cli.measure.corpus import Corpus, read_corpus

NEUTRAL = Path(__file__).with_name("neutral.txt")


def neutral_text() -> Corpus:
    """Plain prose, dialogue, instructions and code, in this order; each line is one sentence."""
    return read_corpus(f"neutral={NEUTRAL}", lines=True)
