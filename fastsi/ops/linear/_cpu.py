"""C++ backend of `linear`."""

from __future__ import annotations

import torch

from fastsi import _ext
from fastsi.ops._view import rows_dense, view
from fastsi.ops.linear.packed import PackedWeight

_C = _ext.core()
_ACTIVATIONS = {None: 0, "silu": 1, "gelu": 2, "gelu_tanh": 3}


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
    x = rows_dense(x)
    rows = x.shape[0] if row_index is None else row_index.shape[0]
    if out is None:
        out = torch.empty(rows, packed.out_features)
    run = _C.linear_int8 if packed.mode == "int8" else _C.linear
    run(
        view(x),
        packed.handle,
        None if bias is None else view(bias.contiguous()),
        None if residual is None else view(rows_dense(residual)),
        None if row_index is None else view(row_index.contiguous()),
        _ACTIVATIONS[activation],
        view(out),
        torch.get_num_threads(),
    )
    return out
