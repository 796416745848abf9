"""Definition of `segment_attention`: scores of every row against every token, masked, softmax."""

from __future__ import annotations

import torch

from fastsi.ops._checks import accumulate_dtype
from fastsi.ops.kv_quant import dequantise, rotate
from fastsi.ops.segment_attention.plan import SegmentPlan


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
    """See `fastsi.ops.segment_attention`; memory grows as rows times all tokens of the plan."""
    dtype = accumulate_dtype(q.dtype)
    groups = q.shape[1] // k_cache.shape[1]
    length = plan.kv_len.long()
    segment = torch.repeat_interleave(length)  # of each token, all spans laid end to end
    token = torch.arange(len(segment), device=q.device) - (length.cumsum(0) - length)[segment]
    slot = plan.page_offset[segment] + token
    page = plan.page_ids[plan.page_indptr[segment] + slot // k_cache.shape[2]]
    place = (page, slice(None), slot % k_cache.shape[2])
    k, v = (cache[place].to(dtype) for cache in (k_cache, v_cache))
    if k_scale is not None and v_scale is not None:
        k, v = dequantise(k, k_scale[place], dtype), dequantise(v, v_scale[place], dtype)
        q = rotate(q)  # as the keys are
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # [tokens, q_heads, head_dim]

    row = torch.arange(q.shape[0], device=q.device)[:, None]
    distance = plan.row_pos[:, None] - (plan.kv_start[segment] + token)
    seen = (plan.row_begin[segment] <= row) & (row < plan.row_end[segment])
    seen &= (plan.causal[segment] == 0) | (distance >= 0)
    if window is not None:
        seen &= distance < window

    score = torch.einsum("rhd,thd->rht", q.to(dtype), k) * scale
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    score = score.masked_fill(~seen[:, None], -torch.inf)
    lse = torch.logsumexp(score, dim=2)
    weight = torch.exp(score - lse.masked_fill(lse == -torch.inf, 0.0)[:, :, None])
    return torch.einsum("rht,thd->rhd", weight, v).to(q.dtype), lse
