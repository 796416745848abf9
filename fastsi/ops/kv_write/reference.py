"""Definition of `kv_write`: indexed assignment, rounded where the cache is int8."""

from __future__ import annotations

import torch

from fastsi.ops.kv_quant import quantise_keys, quantise_values


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
    size = k_cache.shape[2]
    if slots.numel() and not -1 <= int(slots.min()) <= int(slots.max()) < k_cache.shape[0] * size:
        raise ValueError(f"slots: outside -1..{k_cache.shape[0] * size - 1}")
    used = slots >= 0
    page, offset = slots[used] // size, slots[used] % size
    k, v = k[used], v[used]
    if k_scale is not None and v_scale is not None:
        k, k_scale[page, :, offset] = quantise_keys(k)
        v, v_scale[page, :, offset] = quantise_values(v)
    k_cache[page, :, offset] = k.to(k_cache.dtype)
    v_cache[page, :, offset] = v.to(v_cache.dtype)
