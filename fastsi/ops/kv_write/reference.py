"""Definition of `kv_write`: indexed assignment."""

from __future__ import annotations

import torch


def kv_write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """See `fastsi.ops.kv_write`."""
    size = k_cache.shape[2]
    if slots.numel() and not -1 <= int(slots.min()) <= int(slots.max()) < k_cache.shape[0] * size:
        raise ValueError(f"slots: outside -1..{k_cache.shape[0] * size - 1}")
    used = slots >= 0
    page, offset = slots[used] // size, slots[used] % size
    k_cache[page, :, offset] = k[used].to(k_cache.dtype)
    v_cache[page, :, offset] = v[used].to(v_cache.dtype)
