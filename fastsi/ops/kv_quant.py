"""Keys and values in int8: how they are rotated and rounded, and what they stand for.

A token has one scale per KV head for its key and one for its value. In most language models a few
channels of keys are far larger than the others and would decide the grain of the whole key, so keys
are rotated by an orthonormal Hadamard matrix first (QuaRot, arXiv 2404.00456); queries are rotated
likewise when they are used, which leaves every dot product as it is. Values are only rounded.
"""

from __future__ import annotations

import math

import torch

from fastsi.ops._int8 import hadamard, round_rows

_BLOCK = 64
"""Most channels that are rotated together."""


def rotation_block(head_dim: int) -> int:
    """Channels that are rotated together: the largest power of two that divides head_dim, to 64."""
    return min(head_dim & -head_dim, _BLOCK) or 1


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Keys or queries [..., head_dim], floating, in the basis that int8 keys are kept in."""
    block = rotation_block(x.shape[-1])
    return hadamard(x, block) * (1.0 / math.sqrt(block))


def quantise_keys(k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [..., head_dim] and scales float32 [...] of keys, float32, rotated here."""
    return round_rows(rotate(k))


def quantise_values(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [..., head_dim] and scales float32 [...] of values, float32."""
    return round_rows(v)


def dequantise(integers: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values, or keys in the rotated basis, that integers [..., head_dim] and scales [...] mean."""
    return integers.to(dtype) * scale.to(dtype)[..., None]
