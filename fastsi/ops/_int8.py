"""What every int8 form has in common: a Hadamard rotation, and rounding to a scale per row."""

from __future__ import annotations

import torch

_LEAST = 2.0**-120


def hadamard(x: torch.Tensor, block: int) -> torch.Tensor:
    """Every ``block`` consecutive elements times H, unnormalised: H @ H.T = block I.

    H is symmetric, in Sylvester's order. The order of additions (strides block / 2, ..., 2, 1) is
    part of the definition: it gives the same bits as the kernels.

    Args:
        x: [..., n], floating.
        block: a power of two that divides n.
    """
    y, stride = x, block // 2
    while stride:
        pairs = y.reshape(*x.shape[:-1], x.shape[-1] // (2 * stride), 2, stride)
        first, second = pairs.unbind(-2)
        y = torch.stack((first + second, first - second), dim=-2).reshape(x.shape)
        stride //= 2
    return y


def round_rows(
    x: torch.Tensor, levels: float = 127.0, factor: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and a scale per row: x is about values * scale * factor.

    Args:
        x: float32 [..., n].
        levels: largest magnitude of an integer, up to 127.
        factor: what the scale is divided by.

    Returns:
        Values int8 [..., n], rounded to nearest even; scale float32 [...], largest magnitude /
        (levels * factor). Rows whose largest magnitude is below 2^-120 count as zeros; rows that
        are not finite have values 0 and the scale NaN.
    """
    largest = x.abs().amax(dim=-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])
    usable = largest.isfinite() & (largest >= _LEAST)
    safe = largest.where(usable, torch.ones_like(largest))
    inverse = torch.full_like(safe, levels) / safe  # not levels / safe, which torch rounds twice
    values = x.where(usable[..., None], torch.zeros_like(x)) * inverse[..., None]
    scale = (safe / torch.full_like(safe, levels * factor)).where(usable, torch.zeros_like(safe))
    scale = scale.where(largest.isfinite(), torch.full_like(safe, torch.nan))
    return values.round().to(torch.int8), scale
