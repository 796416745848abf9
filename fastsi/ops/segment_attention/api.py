"""Public face of `segment_attention`: checks and the choice of a backend."""

from __future__ import annotations

import torch

from fastsi.ops import _checks, _registry
from fastsi.ops.segment_attention.plan import SegmentPlan


def segment_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: SegmentPlan,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention of each row over the union of the segments that hold it.

    Args:
        q: [R, q_heads, head_dim], floating; any strides with a contiguous last dimension.
        k_cache: [pages, kv_heads, page_size, head_dim], contiguous, q's dtype, or, for float32
            queries, bfloat16 (arithmetic stays float32) or int8 (see `fastsi.ops.kv_quant`; in
            spans that are not ``per_path`` backend "cpu" may round queries and weights to 7 bits
            or more and multiply integers); query head h reads key/value head
            ``h // (q_heads // kv_heads)``.
        v_cache: as k_cache.
        plan: rows and spans, on q's device.
        scale: factor on the scores; None: ``head_dim ** -0.5``.
        softcap: c maps a scaled score s to ``c * tanh(s / c)``.
        window: a row sees positions later than its own minus this many tokens.
        k_scale: float32 [pages, kv_heads, page_size], contiguous, with an int8 cache only, as
            `kv_write` left it.
        v_scale: as k_scale.
        backend: a name, or "auto".

    Returns:
        out [R, q_heads, head_dim] in q's dtype, and lse [R, q_heads], the natural log of the sum
        of exponentials, float32 (float64 for float64). A row that sees no token gets 0 and -inf.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or the plan points outside the cache.
        BackendUnavailable: the requested backend cannot run.
    """
    _check(q, k_cache, v_cache, plan, softcap, window)
    scales = _checks.require_scales(k_cache, k_scale, v_scale)
    run = _registry.choose("segment_attention", _registry.facts(q, k_cache, v_cache), backend)
    factor = q.shape[2] ** -0.5 if scale is None else scale
    result: tuple[torch.Tensor, torch.Tensor] = run(
        q, k_cache, v_cache, plan, factor, softcap, window, *scales
    )
    return result


def _check(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: SegmentPlan,
    softcap: float | None,
    window: int | None,
) -> None:
    _checks.require_float("q", q)
    _checks.require_shape("q", q, (plan.num_rows, None, None))
    _checks.require_shape("k_cache", k_cache, (None, None, None, q.shape[2]))
    _checks.require_shape("v_cache", v_cache, tuple(k_cache.shape))
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        _checks.require_cache_dtype(name, tensor, q.dtype)
        _checks.require_device(name, tensor, q.device)
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: must be contiguous, strides are {tensor.stride()}")
    _checks.require_dtype("v_cache", v_cache, k_cache.dtype)
    _checks.require_device("plan", plan.kv_len, q.device)
    if k_cache.shape[1] == 0 or q.shape[1] % k_cache.shape[1] or q.shape[1] == 0:
        raise ValueError(
            f"q: {q.shape[1]} heads, must be a positive multiple of the {k_cache.shape[1]} heads "
            f"of k_cache"
        )
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap={softcap}: must be > 0, or None for no cap")
    if window is not None and window < 1:
        raise ValueError(f"window={window}: must be >= 1 token, or None for no window")
