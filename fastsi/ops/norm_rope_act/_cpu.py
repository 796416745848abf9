"""C++ backend of `rms_norm`, `rope_kv_write` and `act_mul`."""

from __future__ import annotations

import torch

from fastsi import _ext
from fastsi.ops._view import maybe_view, rows_dense, view

_C = _ext.core()
_ACTIVATIONS = {"silu": 1, "gelu": 2, "gelu_tanh": 3}
Norms = tuple[torch.Tensor | None, torch.Tensor | None, float]


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """See `fastsi.ops.rms_norm`."""
    x, weight = rows_dense(x), weight.contiguous()
    kept = maybe_view(residual)
    _C.rms_norm(view(x), view(weight), eps, kept, view(out), torch.get_num_threads())


def rope_kv_write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    norms: Norms,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> None:
    """See `fastsi.ops.rope_kv_write`."""
    # Copies, where any are needed, live until the call has returned.
    inputs = [rows_dense(tensor) for tensor in (k, v, cos, sin)]
    weights = [None if norm is None else norm.contiguous() for norm in norms[:2]]
    slots = slots.contiguous()
    _C.rope_kv_write(
        view(q),
        *map(view, inputs),
        *map(maybe_view, weights),
        norms[2],
        view(k_cache),
        view(v_cache),
        maybe_view(k_scale),
        maybe_view(v_scale),
        view(slots),
        torch.get_num_threads(),
    )


def act_mul(gate: torch.Tensor, up: torch.Tensor, activation: str, out: torch.Tensor) -> None:
    """See `fastsi.ops.act_mul`."""
    gate, up = rows_dense(gate), rows_dense(up)
    code = _ACTIVATIONS[activation]
    _C.act_mul(view(gate), view(up), code, view(out), torch.get_num_threads())
