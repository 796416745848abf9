# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Activations inside Triton kernels, in float32 or float64."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    """1 / (1 + exp(-x)) from exp(-|x|), which does not overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """silu, gelu (with erf) or gelu_tanh of x."""
    if ACTIVATION == "silu":
        y = x * _sigmoid(x)
    elif ACTIVATION == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:  # 0.5 * (1 + tanh(z)) = sigmoid(2 z), which does not cancel
        y = x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return y
