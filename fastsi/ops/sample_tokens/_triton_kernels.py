# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Kernels of the Triton backend of `sample_tokens`; see `_triton`.

Names: z is a logit in arithmetic type (float32, or float64 for float64 logits), top the row's
maximum, w = exp((z - base) / T) a weight. "Full" sums run over the whole vocabulary, "kept" sums
over what truncation keeps (`_triton_truncated`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsi.ops.sample_tokens._triton_truncated import _draw_truncated

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _source(row, row_index, sources, INDEXED: tl.constexpr, COPIED: tl.constexpr):
    """Row of the logits to read, and whether it exists."""
    source = row.to(tl.int64)
    inside = True
    if INDEXED:
        index = tl.load(row_index + row)
        inside = (index >= 0) & (index < sources)
        if not COPIED:
            source = tl.where(inside, index, 0)
    return source, inside


@triton.jit
def _inverse(t, dtype: tl.constexpr):
    """1 / temperature; greedy rows (temperature 0) have log-probs at temperature 1."""
    return 1.0 / tl.where(t == 0, 1.0, t).to(dtype)


@triton.jit
def _weight(z, base, inverse):
    """exp((z - base) * inverse)."""
    if z.dtype == tl.float64:
        w = tl.exp((z - base) * inverse)
    else:
        # In base 2 the compiler makes one instruction of it, in base e six: it mends subnormal
        # numbers, which weigh nothing here.
        w = tl.exp2((z - base) * (inverse * LOG2_E))
    return w


@triton.jit
def _block_sums(w):
    """Sums float64 [blocks] of weights [loads, blocks, width], which are at most 1."""
    if w.dtype == tl.float64:
        total = tl.sum(tl.sum(w, axis=0), axis=1)
    else:
        # A float32 sum would lose tails beside a weight of 1, and conversions to float64 of every
        # weight would cost as much as the exponentials. So: multiples of 2^-14, which float32 adds
        # exactly up to 1024, and what is left of each weight, at most 2^-15.
        coarse = (w + 768.0) - 768.0
        fine = tl.sum(tl.sum(w - coarse, axis=0), axis=1)
        total = tl.sum(tl.sum(coarse, axis=0), axis=1).to(tl.float64) + fine.to(tl.float64)
    return total


@triton.jit
def _scan(
    logits,
    row_index,
    temperature,
    block_max,
    block_sum,
    block_raw,
    sources,
    stride,
    vocab,
    blocks,
    INDEXED: tl.constexpr,
    COPIED: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    RAW: tl.constexpr,
):
    """Maximum and sum of weights, against that maximum, of `GROUP` blocks of one row.

    With `RAW` also the sum of weights at temperature 1.

    The last axis is what a warp reads in one load of 16 bytes per lane, so that the compiler gives
    every block to one warp: sums go through registers and shuffles, never through shared memory.
    """
    row = tl.program_id(1)
    source, _ = _source(row, row_index, sources, INDEXED, COPIED)
    block = tl.program_id(0) * GROUP + tl.arange(0, GROUP)
    load = tl.arange(0, BLOCK // WIDTH)[:, None, None]
    at = block[None, :, None] * BLOCK + load * WIDTH + tl.arange(0, WIDTH)[None, None, :]
    z = tl.load(logits + source * stride + at, mask=at < vocab, other=-float("inf"))
    z = z.to(block_max.dtype.element_ty)
    top = tl.max(tl.max(z, axis=0), axis=1)
    base = tl.where(top == -float("inf"), 0.0, top)
    w = _weight(z, base[None, :, None], _inverse(tl.load(temperature + row), z.dtype))
    out = row.to(tl.int64) * blocks + block
    tl.store(block_max + out, top, mask=block < blocks)
    tl.store(block_sum + out, _block_sums(w), mask=block < blocks)
    if RAW:
        raw = _block_sums(_weight(z, base[None, :, None], tl.full((), 1.0, z.dtype)))
        tl.store(block_raw + out, raw, mask=block < blocks)


@triton.jit
def _adjust(
    z,
    indptr,
    token_ids,
    bias,
    count,
    in_prompt,
    repetition,
    presence,
    frequency,
    vocab,
    ENTRIES: tl.constexpr,
):
    """Bias and penalties of one row's entries, in place; a token occurs once in a row."""
    row = tl.program_id(0)
    first, end = tl.load(indptr + row), tl.load(indptr + row + 1)
    line = z + row.to(tl.int64) * vocab
    factor = tl.load(repetition + row)
    for start in range(first, end, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        token = tl.load(token_ids + entry, mask=entry < end, other=-1)
        inside = (token >= 0) & (token < vocab)
        value = tl.load(line + token, mask=inside, other=0.0)
        value += tl.load(bias + entry, mask=inside, other=0.0)
        times = tl.load(count + entry, mask=inside, other=0)
        prompt = tl.load(in_prompt + entry, mask=inside, other=0)
        repeated = tl.where(value > 0, value / factor, value * factor)
        value = tl.where((times > 0) | (prompt != 0), repeated, value)
        value -= tl.load(frequency + row).to(value.dtype) * times.to(value.dtype)
        value -= tl.where(times > 0, tl.load(presence + row), 0.0)
        tl.store(line + token, value, mask=inside)


@triton.jit
def _uniform(key, position):
    """The float64 of `stream.uniform`: counter (position low, high, 0, 0), 53 bits."""
    zero = tl.zeros_like(position).to(tl.uint32)
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    x0, x1, _, _ = tl.philox(key, low, high, zero, zero)
    bits = ((x0 >> 5).to(tl.int64) << 26) + (x1 >> 6).to(tl.int64)
    return bits.to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit
def _sums(block_max, block_sum, row, blocks, inverse, BLOCKS: tl.constexpr):
    """A row's block maxima and sums, the sums against the row's maximum; that and the total."""
    block = tl.arange(0, BLOCKS)
    at = row.to(tl.int64) * blocks + block
    peak = tl.load(block_max + at, mask=block < blocks, other=-float("inf"))
    part = tl.load(block_sum + at, mask=block < blocks, other=0.0)
    top = tl.max(peak, axis=0)
    finite = tl.where(top == -float("inf"), 0.0, top)
    # -inf blocks weigh nothing; NaN in a block stays in its sum.
    part *= tl.exp((peak - finite).to(tl.float64) * inverse.to(tl.float64))
    return peak, part, top, tl.sum(part, axis=0)


@triton.jit
def _store(row, good, chosen, z, top, t, kept, full, results):
    """Token and log-probs of one row; a bad row has token -1."""
    token, logprob, logprob_full, kept_mass = results
    scale = tl.where(t == 0, 1.0, t).to(tl.float64)
    shifted = (z - tl.where(good, top, 0.0).to(tl.float64)) / scale
    kept, full = tl.where(good, kept, 1.0), tl.where(good, full, 1.0)
    dtype = logprob.dtype.element_ty
    tl.store(token + row, chosen.to(tl.int64))
    tl.store(logprob + row, (shifted - tl.log(kept)).to(dtype))
    tl.store(logprob_full + row, (shifted - tl.log(full)).to(dtype))
    tl.store(kept_mass + row, (kept / full).to(dtype))


@triton.jit
def _store_raw(logprob_raw, z, good, block_max, block_raw, row, blocks, BLOCKS: tl.constexpr):
    """Log-prob at temperature 1 of a token with logit z, a float64."""
    one = tl.full((), 1.0, block_max.dtype.element_ty)
    _, _, top, raw = _sums(block_max, block_raw, row, blocks, one, BLOCKS)
    shifted = z - tl.where(good, top, 0.0).to(tl.float64)
    value = shifted - tl.log(tl.where(good, raw, 1.0))
    tl.store(logprob_raw + row, value.to(logprob_raw.dtype.element_ty))


@triton.jit
def _score(
    logits,
    row_index,
    token,
    block_max,
    block_raw,
    logprob_raw,
    sources,
    stride,
    blocks,
    INDEXED: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Log-prob at temperature 1 of one row's token, from sums that `_scan` has left."""
    row = tl.program_id(0)
    source, inside = _source(row, row_index, sources, INDEXED, False)
    chosen = tl.load(token + row)
    good = inside & (chosen >= 0)
    z = tl.load(logits + source * stride + chosen, mask=good, other=0.0).to(tl.float64)
    _store_raw(logprob_raw, z, good, block_max, block_raw, row, blocks, BLOCKS)


@triton.jit
def _finish(
    logits,
    row_index,
    temperature,
    top_k,
    top_p,
    min_p,
    key,
    position,
    block_max,
    block_sum,
    block_raw,
    gathered_z,
    gathered_id,
    token,
    logprob,
    logprob_full,
    kept_mass,
    logprob_raw,
    sources,
    stride,
    vocab,
    blocks,
    INDEXED: tl.constexpr,
    COPIED: tl.constexpr,
    CANDIDATES: tl.constexpr,
    KEY_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    BLOCKS: tl.constexpr,
    RAW: tl.constexpr,
):
    """Draw of one row from the sums of its blocks."""
    row = tl.program_id(0)
    source, inside = _source(row, row_index, sources, INDEXED, COPIED)
    line = logits + source * stride
    t = tl.load(temperature + row)
    inverse = _inverse(t, block_max.dtype.element_ty)
    peak, part, top, full = _sums(block_max, block_sum, row, blocks, inverse, BLOCKS)
    good = inside & (top > -float("inf")) & (top < float("inf")) & (full == full)
    k, p, least = tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row)
    truncates = (t != 0) & (((k > 0) & (k < vocab)) | (p < 1) | (least > 0))
    u = _uniform(tl.load(key + row), tl.load(position + row))
    chosen = tl.full((), -1, tl.int32)
    kept = full
    if good:
        if truncates:
            bounds = (peak, top, inverse, k, p, least, vocab, full)
            store = (
                gathered_z + row.to(tl.int64) * (CANDIDATES + STEP),
                gathered_id + row.to(tl.int64) * (CANDIDATES + STEP),
            )
            chosen, kept = _draw_truncated(line, store, bounds, u, CANDIDATES, KEY_BITS, STEP)
        else:
            chosen = _draw_plain(
                line, peak, part, top, inverse, u * full, t == 0, vocab, blocks, BLOCK, BLOCKS
            )
    z = tl.load(line + chosen, mask=good, other=0.0).to(tl.float64)
    results = (token, logprob, logprob_full, kept_mass)
    _store(row, good, chosen, z, top, t, kept, full, results)
    if RAW:
        _store_raw(logprob_raw, z, good, block_max, block_raw, row, blocks, BLOCKS)


@triton.jit
def _draw_plain(
    line,
    peak,
    part,
    top,
    inverse,
    target,
    greedy,
    vocab,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """First token whose running sum exceeds the target, or the first maximum."""
    block = tl.arange(0, BLOCKS)
    # Only blocks with weight can be drawn from, whatever rounding does to a parallel scan.
    over = (part > 0) & (tl.cumsum(part, axis=0) > target)
    over = tl.where(greedy, peak == top, over)
    first = tl.min(tl.where(over, block, BLOCKS), axis=0)
    last = tl.max(tl.where(part > 0, block, 0), axis=0)
    found = tl.where(first < BLOCKS, first, last)
    before = tl.sum(tl.where(block < found, part, 0.0), axis=0)
    base = tl.max(tl.where(block == found, peak, -float("inf")), axis=0)
    i = tl.arange(0, BLOCK)
    at = found * BLOCK + i
    z = tl.load(line + at, mask=at < vocab, other=-float("inf")).to(peak.dtype)
    w = _weight(z, base, inverse).to(tl.float64)
    scale = tl.exp((base - top).to(tl.float64) * inverse.to(tl.float64))
    over_token = (w > 0) & (before + tl.cumsum(w, axis=0) * scale > target)
    over_token = tl.where(greedy, z == top, over_token)
    first_token = tl.min(tl.where(over_token, i, BLOCK), axis=0)
    last_token = tl.max(tl.where(w > 0, i, 0), axis=0)
    return found * BLOCK + tl.where(first_token < BLOCK, first_token, last_token)
