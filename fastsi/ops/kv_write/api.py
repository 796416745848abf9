"""Public face of `kv_write`: checks and the choice of a backend."""

from __future__ import annotations

import torch

from fastsi.ops import _checks, _registry


def kv_write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Copy new keys and values into their slots of the cache.

    The copy is exact; float32 going into a bfloat16 cache is rounded to nearest, ties to even, and
    into an int8 cache as `fastsi.ops.kv_quant` defines.

    Args:
        k: [R, kv_heads, head_dim]; any strides with a contiguous last dimension.
        v: as k.
        k_cache: [pages, kv_heads, page_size, head_dim], contiguous, k's dtype, or bfloat16 or int8
            for float32; modified.
        v_cache: as k_cache; modified.
        slots: int64 [R], ``page * page_size + offset``; -1 skips the row. No slot may occur twice.
        k_scale: float32 [pages, kv_heads, page_size], contiguous, with an int8 cache only: what
            one step of a token's integers is worth; modified.
        v_scale: as k_scale; modified.
        backend: a name, or "auto".

    Raises:
        ValueError: shapes, dtypes or devices disagree, or a slot lies outside the cache. Nothing
            has been written then. On a GPU a slot outside the cache is skipped instead: finding it
            would wait for the device.
        BackendUnavailable: the requested backend cannot run.
    """
    _checks.require_float("k", k)
    _checks.require_shape("k", k, (slots.shape[0], None, None))
    _checks.require_shape("v", v, tuple(k.shape))
    _checks.require_shape("k_cache", k_cache, (None, k.shape[1], None, k.shape[2]))
    _checks.require_shape("v_cache", v_cache, tuple(k_cache.shape))
    _checks.require_dtype("v", v, k.dtype)
    _checks.require_cache_dtype("k_cache", k_cache, k.dtype)
    _checks.require_dtype("v_cache", v_cache, k_cache.dtype)
    for name, tensor in (("v", v), ("k_cache", k_cache), ("v_cache", v_cache)):
        _checks.require_device(name, tensor, k.device)
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: must be contiguous, strides are {tensor.stride()}")
    scales = _checks.require_scales(k_cache, k_scale, v_scale)
    _checks.require_shape("slots", slots, (None,))
    _checks.require_dtype("slots", slots, torch.int64)
    _checks.require_device("slots", slots, k.device)
    run = _registry.choose("kv_write", _registry.facts(k, v, k_cache, v_cache), backend)
    run(k, v, k_cache, v_cache, slots, *scales)  # backends without int8 caches take none
