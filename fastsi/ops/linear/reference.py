"""Definition of `linear`: the product in plain torch, then bias, activation, residual."""

from __future__ import annotations

import torch
from torch.nn import functional

from fastsi.ops.linear import int8
from fastsi.ops.linear.packed import PackedWeight


def linear(
    x: torch.Tensor,
    packed: PackedWeight,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str | None,
    row_index: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """See `fastsi.ops.linear`."""
    rows = x if row_index is None else x[row_index]
    if packed.mode == "int8":
        step_scales = packed.layout == int8.STEP_SCALES
        y = int8.product(rows, *packed.integers(), bias, step_scales=step_scales)
    else:
        rounded = rows.to(torch.bfloat16).to(x.dtype) if packed.mode == "bf16" else rows
        y = functional.linear(rounded, torch.cat(packed.unpack()).to(x), bias)
    first, second = y.chunk(2, dim=1) if packed.pair else (y, None)
    if activation == "silu":
        first = functional.silu(first)
    elif activation is not None:
        first = functional.gelu(first, approximate="tanh" if activation == "gelu_tanh" else "none")
    y = first if second is None else first * second
    y = y if residual is None else y + residual
    return y if out is None else out.copy_(y)
