"""C++ backend of `kv_write`."""

from __future__ import annotations

import torch

from fastsi import _ext
from fastsi.ops._view import maybe_view, rows_dense, view

_C = _ext.core()


def kv_write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> None:
    """See `fastsi.ops.kv_write`."""
    k, v, slots = rows_dense(k), rows_dense(v), slots.contiguous()
    views = (view(k), view(v), view(k_cache), view(v_cache))
    scales = (maybe_view(k_scale), maybe_view(v_scale))
    _C.kv_write(*views, *scales, view(slots), torch.get_num_threads())
