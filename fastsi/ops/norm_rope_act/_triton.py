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
from fastsi.ops._triton_activations import activate
from fastsi.ops._triton_variants import Variant

Norms = tuple[torch.Tensor | None, torch.Tensor | None, float]

_WIDEST_ROW = 8192
"""Elements of a row that a program of `_rms_norm` keeps in registers."""
_ACT_BLOCK = 1024
_HEADS = 4
"""Heads that one warp turns: 4 * 64 pairs of bfloat16 are 16 bytes per lane and half."""


@triton.jit
def _rms_norm(
    x,
    weight,
    residual,
    out,
    size,
    eps,
    x_row,
    residual_row,
    out_row,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_row
    residual += row * residual_row
    out += row * out_row
    lanes = tl.arange(0, BLOCK)
    if ONE_BLOCK:
        inside = lanes < size
        base = tl.load(x + lanes, inside, 0.0).to(WIDE)
        if HAS_RESIDUAL:
            total = tl.load(residual + lanes, inside, 0.0).to(WIDE) + base
            rounded = total.to(residual.dtype.element_ty)
            tl.store(residual + lanes, rounded, inside)
            base = rounded.to(WIDE)
        factor = 1.0 / tl.sqrt(tl.sum(base * base, 0) / size + eps)
        scale = tl.load(weight + lanes, inside, 0.0).to(WIDE)
        tl.store(out + lanes, (base * factor * scale).to(out.dtype.element_ty), inside)
    else:
        squares = tl.zeros([BLOCK], WIDE)
        for first in range(0, size, BLOCK):
            at = first + lanes
            inside = at < size
            base = tl.load(x + at, inside, 0.0).to(WIDE)
            if HAS_RESIDUAL:
                total = tl.load(residual + at, inside, 0.0).to(WIDE) + base
                rounded = total.to(residual.dtype.element_ty)
                tl.store(residual + at, rounded, inside)
                base = rounded.to(WIDE)
            squares += base * base
        factor = 1.0 / tl.sqrt(tl.sum(squares, 0) / size + eps)
        for first in range(0, size, BLOCK):
            at = first + lanes
            inside = at < size
            if HAS_RESIDUAL:  # each lane reads what it has written itself
                base = tl.load(residual + at, inside, 0.0).to(WIDE)
            else:
                base = tl.load(x + at, inside, 0.0).to(WIDE)
            scale = tl.load(weight + at, inside, 0.0).to(WIDE)
            tl.store(out + at, (base * factor * scale).to(out.dtype.element_ty), inside)


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


@triton.jit
def _turn_heads(
    source,
    target,
    norm,
    cos,
    sin,
    rows_inside,
    eps,
    source_head,
    target_head,
    rotary,
    dim,
    HAS_NORM: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Heads [HEADS, dim] from `source`, normed and turned, to `target`; HALF 0: nothing turns."""
    head = tl.arange(0, HEADS)[:, None]
    narrow = target.dtype.element_ty
    half = rotary // 2
    low_at = tl.arange(0, max(HALF, 1))[None, :]
    rest_at = rotary + tl.arange(0, max(REST, 1))[None, :]
    turns = rows_inside & (low_at < half)
    rests = rows_inside & (rest_at < dim)
    low = tl.load(source + head * source_head + low_at, turns, 0.0).to(WIDE)
    high = tl.load(source + head * source_head + half + low_at, turns, 0.0).to(WIDE)
    if REST > 0:
        rest = tl.load(source + head * source_head + rest_at, rests, 0.0).to(WIDE)
    if HAS_NORM:
        squares = tl.sum(low * low + high * high, 1)
        if REST > 0:
            squares += tl.sum(rest * rest, 1)
        factor = (1.0 / tl.sqrt(squares / dim + eps))[:, None]
        low = low * factor * tl.load(norm + low_at, low_at < half, 0.0).to(WIDE)
        high = high * factor * tl.load(norm + half + low_at, low_at < half, 0.0).to(WIDE)
        if REST > 0:
            rest = rest * factor * tl.load(norm + rest_at, rest_at < dim, 0.0).to(WIDE)
    if HALF > 0:
        one = low_at < half
        cos_low = tl.load(cos + low_at, one, 0.0).to(WIDE)
        sin_low = tl.load(sin + low_at, one, 0.0).to(WIDE)
        cos_high = tl.load(cos + half + low_at, one, 0.0).to(WIDE)
        sin_high = tl.load(sin + half + low_at, one, 0.0).to(WIDE)
        turned_low = low * cos_low - high * sin_low
        turned_high = high * cos_high + low * sin_high
        tl.store(target + head * target_head + low_at, turned_low.to(narrow), turns)
        tl.store(target + head * target_head + half + low_at, turned_high.to(narrow), turns)
    if REST > 0:
        tl.store(target + head * target_head + rest_at, rest.to(narrow), rests)


@triton.jit
def _rope_kv_write(
    q,
    k,
    v,
    cos,
    sin,
    q_norm,
    k_norm,
    k_cache,
    v_cache,
    slots,
    eps,
    num_slots,
    q_heads,
    kv_heads,
    rotary,
    dim,
    page_size,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    cos_row,
    sin_row,
    HAS_Q_NORM: tl.constexpr,
    HAS_K_NORM: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    DIM: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Grid (rows, blocks of heads): first those of q, then those of k, then those of v."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    q_blocks = tl.cdiv(q_heads, HEADS)
    kv_blocks = tl.cdiv(kv_heads, HEADS)
    heads = tl.arange(0, HEADS)[:, None]
    cos += row * cos_row
    sin += row * sin_row
    if block < q_blocks:
        first = block * HEADS
        # Without a norm, what does not turn stays as it is.
        REST_Q: tl.constexpr = REST if HAS_Q_NORM else 0
        at = q + row * q_row + first.to(tl.int64) * q_head
        _turn_heads(at, at, q_norm, cos, sin, first + heads < q_heads, eps, q_head, q_head,
                    rotary, dim, HAS_Q_NORM, HEADS, HALF, REST_Q, WIDE)  # fmt: skip
    else:
        slot = tl.load(slots + row)
        if (slot >= 0) & (slot < num_slots):
            page = slot // page_size
            cache_head = page_size.to(tl.int64) * dim
            place = page * kv_heads * cache_head + (slot % page_size) * dim
            if block < q_blocks + kv_blocks:
                first = (block - q_blocks) * HEADS
                source = k + row * k_row + first.to(tl.int64) * k_head
                target = k_cache + place + first * cache_head
                _turn_heads(source, target, k_norm, cos, sin, first + heads < kv_heads, eps,
                            k_head, cache_head, rotary, dim, HAS_K_NORM, HEADS, HALF, REST,
                            WIDE)  # fmt: skip
            else:
                first = (block - q_blocks - kv_blocks) * HEADS
                column = tl.arange(0, DIM)[None, :]
                inside = (first + heads < kv_heads) & (column < dim)
                source = v + row * v_row + first.to(tl.int64) * v_head
                value = tl.load(source + heads * v_head + column, inside, 0.0)
                target = v_cache + place + first * cache_head
                kept = value.to(v_cache.dtype.element_ty)
                tl.store(target + heads * cache_head + column, kept, inside)


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


@triton.jit
def _act_mul(
    gate,
    up,
    out,
    size,
    gate_row,
    up_row,
    out_row,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    x = tl.load(gate + row * gate_row + at, inside, 0.0).to(WIDE)
    y = tl.load(up + row * up_row + at, inside, 0.0).to(WIDE)
    acted = activate(x, ACTIVATION)
    tl.store(out + row * out_row + at, (acted * y).to(out.dtype.element_ty), inside)


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
