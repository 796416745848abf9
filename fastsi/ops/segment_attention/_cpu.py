"""C++ backend of `segment_attention`."""

from __future__ import annotations

import torch

from fastsi import _ext
from fastsi.ops._checks import accumulate_dtype
from fastsi.ops._view import rows_dense, view
from fastsi.ops.segment_attention.plan import FIELDS, SegmentPlan

_C = _ext.core()


def segment_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: SegmentPlan,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fastsi.ops.segment_attention`."""
    page_size = k_cache.shape[2]
    checked = plan.prepared(
        ("cpu", page_size),
        lambda: _C.SegmentPlan(
            *(view(getattr(plan, name).contiguous()) for name in FIELDS), page_size
        ),
    )
    q = rows_dense(q)
    out = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(q.shape[:2], dtype=accumulate_dtype(q.dtype))
    _C.segment_attention(
        view(q),
        view(k_cache),
        view(v_cache),
        checked,
        scale,
        softcap or 0.0,
        window or 0,
        view(out),
        view(lse),
        torch.get_num_threads(),
    )
    return out, lse
