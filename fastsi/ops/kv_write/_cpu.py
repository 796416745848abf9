"""C++ backend of `kv_write`."""

from __future__ import annotations

import torch

from fastsi import _ext
from fastsi.ops._view import rows_dense, view

_C = _ext.core()


def kv_write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """See `fastsi.ops.kv_write`."""
    k, v, slots = rows_dense(k), rows_dense(v), slots.contiguous()
    views = (view(k), view(v), view(k_cache), view(v_cache), view(slots))
    _C.kv_write(*views, torch.get_num_threads())
