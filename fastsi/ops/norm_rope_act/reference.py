"""Definitions of `rms_norm`, `rope_kv_write` and `act_mul` in plain torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from fastsi.ops._checks import accumulate_dtype
from fastsi.ops.kv_write.reference import kv_write

_ACTIVATE: dict[str, Any] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def _wide(x: Any) -> Any:
    return x.to(accumulate_dtype(x.dtype))


def rms_norm(x: Any, weight: Any, eps: float, residual: Any, out: Any) -> None:
    """See `fastsi.ops.rms_norm`."""
    if residual is not None:
        x = residual.copy_(_wide(residual) + _wide(x))
    out.copy_(_wide(x) * torch.rsqrt(_wide(x).square().mean(-1, True) + eps) * _wide(weight))


def rope_kv_write(
    q: Any,
    k: Any,
    v: Any,
    cos: Any,
    sin: Any,
    k_cache: Any,
    v_cache: Any,
    slots: Any,
    norms: Any,
    *scales: Any,
) -> None:
    """See `fastsi.ops.rope_kv_write`."""
    turned = []
    for x, norm in zip((_wide(q), _wide(k)), norms[:2], strict=True):
        if norm is not None:
            x = x * torch.rsqrt(x.square().mean(-1, True) + norms[2]) * _wide(norm)
        low, high = x[..., : cos.shape[1]].chunk(2, dim=-1)
        straight = torch.cat([low, high], -1) * _wide(cos)[:, None]
        across = torch.cat([-high, low], -1) * _wide(sin)[:, None]
        turned.append(torch.cat([straight + across, x[..., cos.shape[1] :]], -1))
    kv_write(turned[1], v, k_cache, v_cache, slots, *scales)
    q.copy_(turned[0])


def act_mul(gate: Any, up: Any, activation: str, out: Any) -> None:
    """See `fastsi.ops.act_mul`."""
    out.copy_(_ACTIVATE[activation](_wide(gate)) * _wide(up))
