"""Public faces of `rms_norm`, `rope_kv_write` and `act_mul`: checks and the choice of a backend."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from fastsi.ops import _checks, _registry
from fastsi.types import check_known

Activation = Literal["silu", "gelu", "gelu_tanh"]


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """``x / sqrt(mean(x ** 2) + eps) * weight``, row by row (arXiv 1910.07467).

    Args:
        x: [R, H], floating; any row stride with a contiguous last dimension.
        weight: [H], x's dtype.
        eps: added to the mean square.
        residual: [R, H], x's dtype: x is added to it, in place, and the sum is normalised.
        out: where the result goes, as x; may be x itself. None: a new tensor.
        backend: a name, or "auto".

    Returns:
        [R, H] in x's dtype; sums are float32 (float64 for float64).

    Raises:
        ValueError: shapes, dtypes or devices disagree.
        BackendUnavailable: the requested backend cannot run.
    """
    _checks.require_float("x", x)
    _checks.require_shape("x", x, (None, None))
    _require_like("weight", weight, x, (x.shape[1],))
    out = _out_like(x) if out is None else _writable("out", out, x)
    if residual is not None:
        _writable("residual", residual, x)
    tensors = (x, weight) if residual is None else (x, weight, residual)
    run = _registry.choose("norm_rope_act", _registry.facts(*tensors), backend, "rms_norm")
    run(x, weight, eps, residual, out)
    return out


def rope_kv_write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Rotate queries in place; rotate keys and write them, and values, to the cache.

    The first ``rotary`` elements of a head turn, element i with element ``i + rotary / 2``
    (arXiv 2104.09864, in the layout of Llama): ``y = x * cos + rotate_half(x) * sin``.

    Args:
        q: [R, q_heads, head_dim], floating, contiguous last dimension; modified.
        k: [R, kv_heads, head_dim], q's dtype; not modified.
        v: as k.
        cos: [R, rotary], q's dtype, of each row's position; rotary is even, at most head_dim.
        sin: as cos.
        k_cache: [pages, kv_heads, page_size, head_dim], contiguous, q's dtype, or, where q is
            float32, bfloat16 or int8 (rounded as by `kv_write`); modified.
        v_cache: as k_cache; modified.
        slots: int64 [R], ``page * page_size + offset``; -1 writes nothing. No slot twice. On a
            GPU a slot outside the cache is passed over too: a check would make the host wait.
        q_norm: [head_dim]: `rms_norm` of every query head, with this weight, before it turns.
        k_norm: the same for keys.
        eps: of both norms.
        k_scale: float32 [pages, kv_heads, page_size], with an int8 cache only, as in `kv_write`.
        v_scale: as k_scale.
        backend: a name, or "auto".

    Raises:
        ValueError: shapes, dtypes or devices disagree, or a slot lies outside the cache. Nothing
            has been written then.
        BackendUnavailable: the requested backend cannot run.
    """
    _checks.require_float("q", q)
    _checks.require_shape("q", q, (slots.shape[0], None, None))
    _dense_last("q", q)
    rows, dim = q.shape[0], q.shape[2]
    _checks.require_shape("k", k, (rows, None, dim))
    _require_like("v", v, k, tuple(k.shape))
    _require_like("k", k, q, tuple(k.shape))
    _checks.require_shape("cos", cos, (rows, None))
    _require_like("sin", sin, cos, tuple(cos.shape))
    _require_like("cos", cos, q, tuple(cos.shape))
    if cos.shape[1] % 2 or cos.shape[1] > dim:
        raise ValueError(f"cos: rotates {cos.shape[1]} elements, must be even and at most {dim}")
    for name, norm in (("q_norm", q_norm), ("k_norm", k_norm)):
        if norm is not None:
            _require_like(name, norm, q, (dim,))
    _check_cache(q, k, k_cache, v_cache)
    scales = _checks.require_scales(k_cache, k_scale, v_scale)
    _checks.require_shape("slots", slots, (None,))
    _checks.require_dtype("slots", slots, torch.int64)
    _checks.require_device("slots", slots, q.device)
    facts = _registry.facts(q, k, v, k_cache, v_cache)
    run = _registry.choose("norm_rope_act", facts, backend, "rope_kv_write")
    run(q, k, v, cos, sin, k_cache, v_cache, slots, (q_norm, k_norm, eps), *scales)


def act_mul(
    gate: torch.Tensor,
    up: torch.Tensor,
    activation: Activation = "silu",
    *,
    out: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """``activation(gate) * up``, the gated unit of an MLP (arXiv 2002.05202).

    Args:
        gate: [R, N], floating; any row stride with a contiguous last dimension.
        up: as gate.
        activation: silu, gelu (exact) or gelu_tanh.
        out: where the result goes, as gate; may be gate itself. None: a new tensor.
        backend: a name, or "auto".

    Returns:
        [R, N] in gate's dtype; arithmetic is float32 (float64 for float64).

    Raises:
        ValueError: shapes, dtypes or devices disagree.
        ConfigError: unknown activation.
        BackendUnavailable: the requested backend cannot run.
    """
    check_known([activation], get_args(Activation), "activation")
    _checks.require_float("gate", gate)
    _checks.require_shape("gate", gate, (None, None))
    _require_like("up", up, gate, tuple(gate.shape))
    out = _out_like(gate) if out is None else _writable("out", out, gate)
    run = _registry.choose("norm_rope_act", _registry.facts(gate, up), backend, "act_mul")
    run(gate, up, activation, out)
    return out


def _require_like(
    name: str, tensor: torch.Tensor, like: torch.Tensor, shape: tuple[int, ...]
) -> None:
    _checks.require_shape(name, tensor, shape)
    _checks.require_dtype(name, tensor, like.dtype)
    _checks.require_device(name, tensor, like.device)


def _dense_last(name: str, tensor: torch.Tensor) -> None:
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ValueError(f"{name}: last dimension must be contiguous, stride {tensor.stride(-1)}")


def _writable(name: str, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    _require_like(name, tensor, like, tuple(like.shape))
    _dense_last(name, tensor)
    return tensor


def _out_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _check_cache(
    q: torch.Tensor, k: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor
) -> None:
    _checks.require_shape("k_cache", k_cache, (None, k.shape[1], None, q.shape[2]))
    _checks.require_cache_dtype("k_cache", k_cache, q.dtype)
    _require_like("v_cache", v_cache, k_cache, tuple(k_cache.shape))
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        _checks.require_device(name, tensor, q.device)
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: must be contiguous, strides are {tensor.stride()}")
