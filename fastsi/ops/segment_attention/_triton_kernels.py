"""Kernels of `segment_attention`: tiles of shared spans, and rows with their own spans.

Both keep, per pair (row, query head), the largest score m so far (base 2), the sum l of 2^(s - m)
and the sum of 2^(s - m) v, and add a block of tokens at a time ("online softmax", Milakov and
Gimelshein, arXiv 1805.02867). Products take the type of the cache and are summed in float32.
A block in which a pair sees nothing leaves its numbers as they are, bit for bit.
"""

# Arguments of kernels are values on the device, without Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _tanh(x):
    """Within 3 units in the last place: a series near 0, where 1 - 2 / (e^2x + 1) cancels."""
    square = x * x
    series = 21844.0 / 6081075.0
    series = series * square - 1382.0 / 155925.0
    series = series * square + 62.0 / 2835.0
    series = series * square - 17.0 / 315.0
    series = series * square + 2.0 / 15.0
    series = series * square - 1.0 / 3.0
    near = x + x * square * series
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp2(size * (2.0 * LOG2_E)) + 1.0)
    return tl.where(size < 0.45, near, tl.where(x < 0, -far, far))


@triton.jit
def _pages(page_ids, start, kv_end, page_offset, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The page of every token of a block."""
    token = start + tl.arange(0, BLOCK_N)
    return tl.load(page_ids + (page_offset + token) // PAGE, mask=token < kv_end, other=0)


@triton.jit
def _attend(
    queries,
    keys,
    values,
    pages,
    page_offset,
    first,
    last,
    kv_end,
    low,
    high,
    open_end,
    largest,
    total,
    acc,
    scale,
    softcap,
    KV_HEADS: tl.constexpr,
    PAGE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Add tokens [first, last) of a span of kv_end tokens; a pair sees those in [low, high)."""
    page = _pages(pages, first, kv_end, page_offset, PAGE, BLOCK_N)
    for start in range(first, last, BLOCK_N):
        # A block ahead: a page number that is loaded with its keys would hold up their requests.
        next_page = _pages(pages, start + BLOCK_N, kv_end, page_offset, PAGE, BLOCK_N)
        token = start + tl.arange(0, BLOCK_N)
        slot = page_offset + token
        place = page.to(tl.int64) * (KV_HEADS * PAGE * HEAD_DIM) + slot % PAGE * HEAD_DIM
        d = tl.arange(0, BLOCK_D)
        where = place[:, None] + d[None, :]
        # Slots past the span may hold anything, NaN included: values there must be read as 0.
        held = (token < kv_end)[:, None]
        if HEAD_DIM != BLOCK_D:
            held = held & (d[None, :] < HEAD_DIM)
        key = tl.load(keys + where, mask=held, other=0.0).to(queries.dtype)
        score = tl.dot(queries, tl.trans(key), input_precision="ieee")
        if SOFTCAP:
            score = _tanh(score * scale) * softcap
        if WINDOW or ROWS:
            seen = token[None, :] < high[:, None]
            if WINDOW:
                seen = seen & (token[None, :] >= low[:, None])
            score = tl.where(seen, score, float("-inf"))
        elif start + BLOCK_N > open_end:  # before that every pair sees every token
            score = tl.where(token[None, :] < high[:, None], score, float("-inf"))
        if SOFTCAP:
            above = tl.maximum(largest, tl.max(score, 1))
            base = tl.where(above == float("-inf"), 0.0, above)
            weight = tl.exp2(score - base[:, None])
        else:
            # The scale is above 0, so the maximum may come first: one multiply-add per score.
            above = tl.maximum(largest, tl.max(score, 1) * scale)
            base = tl.where(above == float("-inf"), 0.0, above)
            weight = tl.exp2(score * scale - base[:, None])
        shrink = tl.exp2(largest - base)
        value = tl.load(values + where, mask=held, other=0.0).to(queries.dtype)
        acc = tl.dot(weight.to(value.dtype), value, acc * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(weight, 1)
        largest = above
        page = next_page
    return largest, total, acc


@triton.jit
def _mean(largest, total, acc):
    """The weighted mean of the values and the log-sum in base 2; 0 and -inf if nothing was seen."""
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    return acc / divisor[:, None], tl.where(empty, float("-inf"), largest + tl.log2(divisor))


@triton.jit(do_not_specialize=["window"])
def attend_tiles(
    q,
    k_cache,
    v_cache,
    page_ids,
    row_pos,
    counts,
    tiles,
    slots,
    partial_out,
    partial_lse,
    out,
    lse,
    q_row_stride,
    q_head_stride,
    scale,
    softcap,
    window,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Grid [tiles * kv_heads]: one tile of pairs against one split of a segment."""
    item, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    if item >= tl.load(counts):
        return
    record = tiles + item * 16
    page_offset, kv_begin = tl.load(record + 1), tl.load(record + 2)
    kv_end, kv_start = tl.load(record + 3), tl.load(record + 4)
    pages = page_ids + tl.load(record)
    pair = tl.load(record + 7) + tl.arange(0, BLOCK_M)
    valid = pair < tl.load(record + 8)
    row = tl.load(record + 6) + pair // GROUP
    q_head = head * GROUP + pair % GROUP
    d = tl.arange(0, BLOCK_D)
    held = valid[:, None] & (d[None, :] < HEAD_DIM)
    where = row.to(tl.int64) * q_row_stride + q_head * q_head_stride
    queries = tl.load(q + where[:, None] + d[None, :], mask=held, other=0.0)
    keys, values = k_cache + head * (PAGE * HEAD_DIM), v_cache + head * (PAGE * HEAD_DIM)

    # Tokens [low, high) are what a pair sees; blocks outside every pair's are left out.
    distance = tl.load(row_pos + row, mask=valid, other=0) - kv_start
    high = tl.where(tl.load(record + 5) != 0, tl.minimum(distance + 1, kv_end), kv_end)
    high = tl.where(valid, high, kv_begin)
    low = kv_begin + tl.zeros([BLOCK_M], tl.int32)
    first = kv_begin
    if WINDOW:
        low = tl.maximum(distance - window + 1, kv_begin)
        lowest = tl.min(tl.where(valid, low, kv_end), 0)
        first = kv_begin + (lowest - kv_begin) // BLOCK_N * BLOCK_N

    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    largest, total, acc = _attend(
        queries,
        keys,
        values,
        pages,
        page_offset,
        first,
        tl.max(high, 0),
        kv_end,
        low,
        high,
        tl.min(tl.where(valid, high, kv_end), 0),
        largest,
        total,
        acc,
        scale,
        softcap,
        KV_HEADS,
        PAGE,
        HEAD_DIM,
        BLOCK_D,
        BLOCK_N,
        SOFTCAP,
        WINDOW,
        False,
    )
    mean, lse2 = _mean(largest, total, acc)

    # Read anew, so that no register holds a pair's addresses while the loop runs.
    pair = tl.load(record + 7, volatile=True) + tl.arange(0, BLOCK_M)
    row = tl.load(record + 6, volatile=True) + pair // GROUP
    q_head = head * GROUP + pair % GROUP
    valid = pair < tl.load(record + 8, volatile=True)
    held = valid[:, None] & (d[None, :] < HEAD_DIM)
    slot_begin = tl.load(record + 9)
    if slot_begin < 0:
        at = row.to(tl.int64) * (KV_HEADS * GROUP) + q_head
        result = mean.to(out.dtype.element_ty)
        tl.store(out + at[:, None] * HEAD_DIM + d[None, :], result, mask=held)
        tl.store(lse + at, lse2 * LN_2, mask=valid)
    else:
        slot = tl.load(slots + slot_begin + pair // GROUP, mask=valid, other=0)
        part = (slot + tl.load(record + 10)).to(tl.int64) * (KV_HEADS * GROUP) + q_head
        tl.store(partial_out + part[:, None] * HEAD_DIM + d[None, :], mean, mask=held)
        tl.store(partial_lse + part, lse2, mask=valid)


@triton.jit(do_not_specialize=["window"])
def finish_rows(
    q,
    k_cache,
    v_cache,
    page_ids,
    row_pos,
    counts,
    rows,
    spans,
    partial_out,
    partial_lse,
    out,
    lse,
    q_row_stride,
    q_head_stride,
    scale,
    softcap,
    window,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Grid [rows * kv_heads]: merge a row's partial results, then add the row's own spans."""
    item, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    if item >= tl.load(counts + 1):
        return
    record = rows + item * 8
    row = tl.load(record).to(tl.int64)
    member = tl.arange(0, BLOCK_M)
    valid = member < GROUP
    q_head = head * GROUP + member
    d = tl.arange(0, BLOCK_D)
    held = valid[:, None] & (d[None, :] < HEAD_DIM)
    where = row * q_row_stride + q_head * q_head_stride
    queries = tl.load(q + where[:, None] + d[None, :], mask=held, other=0.0)
    keys, values = k_cache + head * (PAGE * HEAD_DIM), v_cache + head * (PAGE * HEAD_DIM)
    position = tl.load(row_pos + row)

    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for partial in tl.range(tl.load(record + 3), tl.load(record + 4), num_stages=4):
        part = tl.cast(partial, tl.int64) * (KV_HEADS * GROUP) + q_head
        lse2 = tl.load(partial_lse + part, mask=valid, other=float("-inf"))
        mean = tl.load(partial_out + part[:, None] * HEAD_DIM + d[None, :], mask=held, other=0.0)
        above = tl.maximum(largest, lse2)
        base = tl.where(above == float("-inf"), 0.0, above)
        shrink, share = tl.exp2(largest - base), tl.exp2(lse2 - base)
        acc = acc * shrink[:, None] + mean * share[:, None]
        total = total * shrink + share
        largest = above

    for span in range(tl.load(record + 1), tl.load(record + 2)):
        part = spans + span * 8
        kv_begin, kv_end = tl.load(part + 2), tl.load(part + 3)
        distance = position - tl.load(part + 4)
        last = tl.where(tl.load(part + 5) != 0, tl.minimum(distance + 1, kv_end), kv_end)
        first = kv_begin
        low = kv_begin
        if WINDOW:
            low = tl.maximum(distance - window + 1, kv_begin)
            first = kv_begin + (low - kv_begin) // BLOCK_N * BLOCK_N
        none = tl.zeros([BLOCK_M], tl.int32)
        largest, total, acc = _attend(
            queries,
            keys,
            values,
            page_ids + tl.load(part),
            tl.load(part + 1),
            first,
            last,
            kv_end,
            low + none,
            last + none,
            last,
            largest,
            total,
            acc,
            scale,
            softcap,
            KV_HEADS,
            PAGE,
            HEAD_DIM,
            BLOCK_D,
            BLOCK_N,
            SOFTCAP,
            WINDOW,
            True,
        )
    mean, lse2 = _mean(largest, total, acc)
    at = row * (KV_HEADS * GROUP) + q_head
    result = mean.to(out.dtype.element_ty)
    tl.store(out + at[:, None] * HEAD_DIM + d[None, :], result, mask=held)
    tl.store(lse + at, lse2 * LN_2, mask=valid)
