"""C++ backend of `segment_attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fastsi import _ext
from fastsi.ops._checks import accumulate_dtype
from fastsi.ops._view import maybe_view, rows_dense, view
from fastsi.ops.segment_attention.plan import FIELDS, SegmentPlan

if TYPE_CHECKING:
    from fastsi import _C as core

_C = _ext.core()


def checked_plan(plan: SegmentPlan, page_size: int) -> core.SegmentPlan:
    """What the extension makes of a plan, made once per step and shared by all layers."""
    made: core.SegmentPlan = plan.prepared(("cpu", page_size), lambda: own_plan(plan, page_size))
    return made


def own_plan(plan: SegmentPlan, page_size: int) -> core.SegmentPlan:
    """As `checked_plan`, for one who moves it on and shares it with nobody."""
    made: core.SegmentPlan = _C.SegmentPlan(
        *(view(getattr(plan, name).contiguous()) for name in FIELDS), page_size
    )
    return made


def segment_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: SegmentPlan,
    scale: float,
    softcap: float | None,
    window: int | None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fastsi.ops.segment_attention`."""
    checked = checked_plan(plan, k_cache.shape[2])
    q = rows_dense(q)
    out = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(q.shape[:2], dtype=accumulate_dtype(q.dtype))
    _C.segment_attention(
        view(q),
        view(k_cache),
        view(v_cache),
        maybe_view(k_scale),
        maybe_view(v_scale),
        checked,
        scale,
        softcap or 0.0,
        window or 0,
        view(out),
        view(lse),
        torch.get_num_threads(),
    )
    return out, lse
