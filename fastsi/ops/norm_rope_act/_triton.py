"""Triton backend of `rms_norm`, `rope_kv_write` and `act_mul`: one launch each.

All three move bytes and do little else. Rows lie on the first axis of the grid, every thread loads
16 bytes at a time where strides allow it, and arithmetic is float32 (float64 for float64). A row is
reduced by one program in an order that its length alone decides, so its bits do not depend on the
rows beside it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastsi.ops._launch import on_device, rows_dense
from fastsi.ops._triton_variants import Variant
from fastsi.ops.norm_rope_act._triton_kernels import _act_mul, _rms_norm, _rope_kv_write

Norms = tuple[torch.Tensor | None, torch.Tensor | None, float]

_WIDEST_ROW = 8192
"""Elements of a row that a program of `_rms_norm` keeps in registers."""
_ACT_BLOCK = 1024
_HEADS = 4
"""Heads that one warp turns: 4 * 64 pairs of bfloat16 are 16 bytes per lane and half."""


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """See `fastsi.ops.rms_norm`."""
    rows, size = x.shape
    if rows == 0 or size == 0:
        return
    x, weight = rows_dense(x), weight.contiguous()
    kept = x if residual is None else residual
    block = min(triton.next_power_of_2(size), _WIDEST_ROW)
    with on_device(x):
        _rms_norm[(rows,)](
            x,
            weight,
            kept,
            out,
            size,
            eps,
            x.stride(0),
            kept.stride(0),
            out.stride(0),
            HAS_RESIDUAL=residual is not None,
            BLOCK=block,
            ONE_BLOCK=size <= block,
            WIDE=_wide(x),
            num_warps=_norm_warps(block),
        )


def _norm_warps(block: int) -> int:
    """A lane holds 16 elements, two loads of 16 bytes in bfloat16."""
    return min(max(block // 512, 1), 16)


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
) -> None:
    """See `fastsi.ops.rope_kv_write`."""
    rows, q_heads, dim = q.shape
    kv_heads, page_size = k_cache.shape[1:3]
    num_slots = k_cache.shape[0] * page_size
    if slots.device.type == "cpu":
        _require_inside(slots, num_slots)
    if rows == 0 or dim == 0:
        return
    k, v, cos, sin = (rows_dense(tensor) for tensor in (k, v, cos, sin))
    q_norm, k_norm = (None if norm is None else norm.contiguous() for norm in norms[:2])
    slots = slots.contiguous()
    rotary = cos.shape[1]
    blocks = triton.cdiv(q_heads, _HEADS) + 2 * triton.cdiv(kv_heads, _HEADS)
    with on_device(q):
        _rope_kv_write[(rows, blocks)](
            q,
            k,
            v,
            cos,
            sin,
            q if q_norm is None else q_norm,
            q if k_norm is None else k_norm,
            k_cache,
            v_cache,
            slots,
            norms[2],
            num_slots,
            q_heads,
            kv_heads,
            rotary,
            dim,
            page_size,
            q.stride(0),
            q.stride(1),
            k.stride(0),
            k.stride(1),
            v.stride(0),
            v.stride(1),
            cos.stride(0),
            sin.stride(0),
            HAS_Q_NORM=q_norm is not None,
            HAS_K_NORM=k_norm is not None,
            HEADS=_HEADS,
            HALF=triton.next_power_of_2(rotary // 2) if rotary else 0,
            REST=triton.next_power_of_2(dim - rotary) if dim > rotary else 0,
            DIM=triton.next_power_of_2(dim),
            WIDE=_wide(q),
            num_warps=1,
        )


def _require_inside(slots: torch.Tensor, num_slots: int) -> None:
    """The check that a GPU's callers go without, since it would make them wait."""
    bad = ((slots < -1) | (slots >= num_slots)).nonzero()[:, 0].tolist()
    if bad:
        first = bad[0]
        raise ValueError(
            f"slots[{first}]: is {int(slots[first])}, must be -1 or in 0..{num_slots - 1}"
        )


def act_mul(gate: torch.Tensor, up: torch.Tensor, activation: str, out: torch.Tensor) -> None:
    """See `fastsi.ops.act_mul`."""
    rows, size = gate.shape
    if rows == 0 or size == 0:
        return
    gate, up = rows_dense(gate), rows_dense(up)
    with on_device(gate):
        _act_mul[(rows, triton.cdiv(size, _ACT_BLOCK))](
            gate,
            up,
            out,
            size,
            gate.stride(0),
            up.stride(0),
            out.stride(0),
            ACTIVATION=activation,
            BLOCK=_ACT_BLOCK,
            WIDE=_wide(gate),
            num_warps=4,
        )


def _wide(x: torch.Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


_TYPES = ("bf16", "fp16")
_HIDDEN = (576, 4096)
"""Rows of SmolLM2-135M, which leave lanes of a block idle, and of Llama-3.1-8B."""


def _norm_variant(kind: str, size: int, residual: bool) -> Variant:
    pointers = dict.fromkeys(("x", "weight", "residual", "out"), f"*{kind}")
    steps = dict.fromkeys(("x_row", "residual_row", "out_row"), "i32")
    block = min(triton.next_power_of_2(size), _WIDEST_ROW)
    constants = {
        "HAS_RESIDUAL": residual,
        "BLOCK": block,
        "ONE_BLOCK": size <= block,
        "WIDE": tl.float32,
    }
    signature = pointers | {"size": "i32", "eps": "fp32"} | steps
    return Variant(
        name=f"rms_norm {kind} {size}{' residual' if residual else ''}",
        kernel=_rms_norm,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        divisible=(*pointers, "size", *steps),
        num_warps=_norm_warps(block),
    )


def _rope_variant(kind: str, dim: int, rotary: int, norms: bool, cache: str) -> Variant:
    pointers = dict.fromkeys(("q", "k", "v", "cos", "sin", "q_norm", "k_norm"), f"*{kind}")
    caches = dict.fromkeys(("k_cache", "v_cache"), f"*{cache}")
    counts = ("num_slots", "q_heads", "kv_heads", "rotary", "dim", "page_size")
    steps = ("q_row", "q_head", "k_row", "k_head", "v_row", "v_head", "cos_row", "sin_row")
    constants = {
        "HAS_Q_NORM": norms,
        "HAS_K_NORM": norms,
        "HEADS": _HEADS,
        "HALF": triton.next_power_of_2(rotary // 2),
        "REST": triton.next_power_of_2(dim - rotary) if dim > rotary else 0,
        "DIM": triton.next_power_of_2(dim),
        "WIDE": tl.float32,
    }
    signature = pointers | caches | {"slots": "*i64", "eps": "fp32"}
    signature |= dict.fromkeys(counts + steps, "i32") | dict.fromkeys(constants, "constexpr")
    extra = f"{' norms' if norms else ''}{f' rotary {rotary}' if rotary != dim else ''}"
    return Variant(
        name=f"rope_kv_write {kind} {dim} into {cache}{extra}",
        kernel=_rope_kv_write,
        signature=signature,
        constants=constants,
        divisible=(*pointers, *caches, "slots", "num_slots", "rotary", "dim", "page_size", *steps),
        num_warps=1,
    )


def _act_variant(kind: str, activation: str) -> Variant:
    pointers = dict.fromkeys(("gate", "up", "out"), f"*{kind}")
    sizes = ("size", "gate_row", "up_row", "out_row")
    constants = {"ACTIVATION": activation, "BLOCK": _ACT_BLOCK, "WIDE": tl.float32}
    return Variant(
        name=f"act_mul {kind} {activation}",
        kernel=_act_mul,
        signature=pointers | dict.fromkeys(sizes, "i32") | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        divisible=(*pointers, *sizes),
    )


VARIANTS = (
    *(_norm_variant(kind, size, size == 4096) for kind in _TYPES for size in _HIDDEN),
    _norm_variant("fp32", 576, True),
    _norm_variant("bf16", 12288, True),
    *(_rope_variant(kind, dim, dim, False, kind) for kind in _TYPES for dim in (64, 128)),
    _rope_variant("bf16", 128, 128, True, "bf16"),
    _rope_variant("bf16", 80, 32, False, "bf16"),
    _rope_variant("fp32", 64, 64, False, "bf16"),
    *(_act_variant("bf16", activation) for activation in ("silu", "gelu", "gelu_tanh")),
    _act_variant("fp16", "silu"),
)
"""Specialisations at the shapes of SmolLM2-135M, Qwen3 (norms of heads), Phi (partial rotation) and
Llama-3.1-8B."""
