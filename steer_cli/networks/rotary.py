"""Rotary position embedding: rotate pairs of a head's values by an angle that grows with the position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# rope_type -> the keys that it takes besides rope_theta. Types whose frequencies depend on the length of a
# row (dynamic, longrope) cannot serve rows of different lengths in one pass.
VARIANTS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of each position, [rows or 1, positions, 1, head width]; half the sines are negated."""

    cosine: Tensor
    sine: Tensor

    def turn(self, heads: Tensor) -> Tensor:
        """Rotate [rows, positions, heads, head width]."""
        # A right-angle rotation swaps the halves and negates one; the sine already has the sign.
        swapped = heads.roll(heads.shape[-1] // 2, -1)
        return torch.addcmul(heads * self.cosine, swapped, self.sine)


def rotation(frequencies: Tensor, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """The rotation at each position.

    Args:
        frequencies: radians per position, [head width / 2], float32.
        positions: [rows or 1, positions].
    """
    angles = (positions[..., None].float() * frequencies)[:, :, None]
    cosine, sine = angles.cos(), angles.sin()
    return Rotation(torch.cat([cosine, cosine], -1).to(dtype), torch.cat([-sine, sine], -1).to(dtype))


def frequencies(parameters: Mapping[str, Any], width: int) -> Tensor:
    """Radians per position for each pair of a head's values, [width / 2], float32.

    Args:
        parameters: `rope_theta`, `rope_type` (one of VARIANTS) and that type's keys.
        width: the head width.
    """
    plain = 1.0 / (parameters["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float) / width))
    kind = parameters["rope_type"]
    if kind == "linear":
        return plain / parameters["factor"]
    return _llama3(plain, parameters) if kind == "llama3" else plain


def _llama3(plain: Tensor, parameters: Mapping[str, Any]) -> Tensor:
    """Llama 3.1: long waves are slowed by the factor, short ones kept, those in between blended."""
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    waves = 2 * math.pi / plain  # positions per turn
    blend = ((original / waves - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * plain / factor + blend * plain
