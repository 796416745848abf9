# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Triton kernels of `rms_norm`, `rope_kv_write` and `act_mul`."""

from __future__ import annotations

import triton
import triton.language as tl

from fastsi.ops._triton_activations import activate


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
        # Every head loads them for itself, from the nearest cache: laid out as the heads are, they
        # need no exchange between lanes.
        pair = low_at + 0 * head
        cos_low = tl.load(cos + pair, turns, 0.0).to(WIDE)
        sin_low = tl.load(sin + pair, turns, 0.0).to(WIDE)
        cos_high = tl.load(cos + half + pair, turns, 0.0).to(WIDE)
        sin_high = tl.load(sin + half + pair, turns, 0.0).to(WIDE)
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
