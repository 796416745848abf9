"""Whether two passes over the same tokens compute the same."""

from __future__ import annotations

import torch

_AGREEMENT = 1e-4
"""Largest difference of logits, as a share of the largest, that rounding explains in float32."""
_ROUNDINGS = 16
"""The same in 16 bits, in units of the type's epsilon, for the root mean square: tiny models of
spread weights differ by 2 to 7."""


def disagreement(own: torch.Tensor, ours: torch.Tensor) -> str | None:
    """How logits differ by more than rounding explains, or None.

    Passes with 16 bits differ by several roundings in their largest element, so the root mean
    square is compared, which another arithmetic would change as well.
    """
    difference, wide = own.double() - ours.double(), own.double()
    if own.dtype in (torch.float32, torch.float64):
        apart, largest = float(difference.abs().max()), float(wide.abs().max())
        allowed = _AGREEMENT * largest
    else:
        apart, largest = (
            float(difference.square().mean().sqrt()),
            float(wide.square().mean().sqrt()),
        )
        allowed = _ROUNDINGS * torch.finfo(own.dtype).eps * largest
    return None if apart <= allowed else f"its logits differ by {apart:.2g} of {largest:.2g}"
