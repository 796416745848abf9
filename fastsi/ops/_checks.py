"""Argument checks shared by the ops; every message names the argument and what it should be."""

from __future__ import annotations

import torch

Shape = tuple[int, ...]
_NARROW = (torch.bfloat16, torch.int8)
"""Types of a cache of float32 keys and values, besides their own."""


def require_shape(name: str, tensor: torch.Tensor, shape: tuple[int | None, ...]) -> None:
    """Refuse a tensor whose shape differs; None in ``shape`` matches any size."""
    got = tensor.shape
    if got == shape:  # the usual case, without a loop: ops are called for every layer of every step
        return
    if len(got) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, got, strict=True)
    ):
        return
    wanted = ", ".join("*" if size is None else str(size) for size in shape)
    raise ValueError(f"{name}: shape is {list(got)}, must be [{wanted}]")


def require_dtype(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse another dtype; ops that write in place never convert."""
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: dtype is {tensor.dtype}, must be {dtype}")


def require_cache_dtype(name: str, cache: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse a KV cache that does not hold ``dtype``, or bfloat16 or int8 for float32."""
    if cache.dtype == dtype or (dtype == torch.float32 and cache.dtype in _NARROW):
        return
    also = ", torch.bfloat16 or torch.int8" if dtype == torch.float32 else ""
    raise ValueError(f"{name}: dtype is {cache.dtype}, must be {dtype}{also}")


def require_scales(
    k_cache: torch.Tensor, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """The scales of an int8 cache, one per page, head and slot; () where the cache has none."""
    found = []
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if (scale is None) == (k_cache.dtype == torch.int8):
            what = "is missing; give" if scale is None else "leave it out; only int8 has"
            raise ValueError(
                f"{name}: the cache is {k_cache.dtype}: {what} float32 scales "
                f"[pages, kv_heads, page_size]"
            )
        if scale is not None:
            require_shape(name, scale, tuple(k_cache.shape[:3]))
            require_dtype(name, scale, torch.float32)
            require_device(name, scale, k_cache.device)
            if not scale.is_contiguous():
                raise ValueError(f"{name}: must be contiguous, strides are {scale.stride()}")
            found.append(scale)
    return tuple(found)


def require_device(name: str, tensor: torch.Tensor, device: torch.device) -> None:
    """Refuse a tensor on another device."""
    if tensor.device != device:
        raise ValueError(f"{name}: device is {tensor.device}, must be {device}")


def require_float(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that is not of floating point."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: dtype is {tensor.dtype}, must be a floating type")


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that arithmetic on ``dtype`` is done in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
