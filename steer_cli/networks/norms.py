"""RMS norm, as Llama and Gemma use it."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(stream: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight.

    Args:
        stream: x, [..., width]; its norm is computed in float32.
        weight: [width].
    """
    wide = stream.float()
    # Computing the mean square from the norm takes fewer calls than torch's own rms_norm does on a CPU.
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = (length * length).div_(stream.shape[-1]).add_(epsilon).rsqrt_()
    if stream.dtype == torch.float32:
        return (stream * scale).mul_(weight)
    return (wide * scale).to(stream.dtype) * weight
