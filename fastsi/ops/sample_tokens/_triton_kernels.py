# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Kernels of the Triton backend of `sample_tokens`; see `_triton`.

Names: z is a logit in arithmetic type (float32, or float64 for float64 logits), top the row's
maximum, w = exp((z - base) / T) a weight. A key is an integer that orders like z. "Full" sums run
over the whole vocabulary, "kept" sums over what truncation keeps.
"""

from __future__ import annotations

import triton
import triton.language as tl

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
def _scan(
    logits,
    row_index,
    temperature,
    block_max,
    block_sum,
    sources,
    stride,
    vocab,
    blocks,
    INDEXED: tl.constexpr,
    COPIED: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Maximum and sum of weights, against that maximum, of `GROUP` blocks of one row.

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
    if z.dtype == tl.float64:
        total = tl.sum(tl.sum(w, axis=0), axis=1)
    else:
        # A float32 sum would lose tails beside a weight of 1, and conversions to float64 of every
        # weight would cost as much as the exponentials. So: multiples of 2^-14, which float32 adds
        # exactly up to 1024, and what is left of each weight, at most 2^-15.
        coarse = (w + 768.0) - 768.0
        fine = tl.sum(tl.sum(w - coarse, axis=0), axis=1)
        total = tl.sum(tl.sum(coarse, axis=0), axis=1).to(tl.float64) + fine.to(tl.float64)
    out = row.to(tl.int64) * blocks + block
    tl.store(block_max + out, top, mask=block < blocks)
    tl.store(block_sum + out, total, mask=block < blocks)


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
def _key(z, BITS: tl.constexpr):
    """Integer that orders like z, of as many leading bits as tell z's values apart."""
    z = tl.where(z == 0, 0.0, z)  # one zero
    if z.dtype == tl.float64:
        bits = z.to(tl.int64, bitcast=True)
        keys = tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)
    else:
        bits = z.to(tl.int32, bitcast=True)
        keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) >> (32 - BITS)
    return keys


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
    gathered_z,
    gathered_id,
    token,
    logprob,
    logprob_full,
    kept_mass,
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


@triton.jit
def _low_bound(peak, top, inverse, k, p, least, vocab, KEY_BITS: tl.constexpr):
    """A logit that the edge of truncation does not lie below, from the blocks' maxima alone."""
    low = tl.full((), -float("inf"), peak.dtype)
    if (k > 0) & (k < vocab):
        # The k-th largest block maximum: k tokens reach it.
        keys = _key(peak, KEY_BITS)
        some = peak > -float("inf")
        if tl.sum(some.to(tl.int32), axis=0) >= k:
            a = tl.min(tl.where(some, keys, _key(top, KEY_BITS)), axis=0)
            b = _key(top, KEY_BITS)
            while a < b:
                middle = a + (b - a + 1) // 2
                enough = tl.sum((some & (keys >= middle)).to(tl.int32), axis=0) >= k
                a = tl.where(enough, middle, a)
                b = tl.where(enough, b, middle - 1)
            reached = some & (keys >= a)
            low = tl.min(tl.where(reached, peak, top), axis=0)
    if least > 0:
        # A little below the logarithm: the weight decides.
        depth = (0.0 - tl.log(least)) * 1.001 + 1e-3
        low = tl.maximum(low, top - (depth.to(tl.float64) / inverse.to(tl.float64)).to(top.dtype))
    if (p < 1) & (least == 0) & ((k <= 0) | (k >= vocab)):
        # All tokens deeper than ln(vocab / (1 - p)) together weigh less than a share 1 - p of
        # the maximum's weight, so the share p of all is reached above them.
        depth = tl.log(vocab.to(tl.float32) / (1.0 - p)) * 1.001 + 1e-3
        low = tl.maximum(low, top - (depth.to(tl.float64) / inverse.to(tl.float64)).to(top.dtype))
    return low


@triton.jit
def _draw_truncated(
    line,
    store,
    bounds,
    u,
    CANDIDATES: tl.constexpr,
    KEY_BITS: tl.constexpr,
    STEP: tl.constexpr,
):
    """Draw among the tokens that min-p, top-k and top-p keep; also the sum of their weights."""
    peak, top, inverse, k, p, least, vocab, full = bounds
    low = _low_bound(peak, top, inverse, k, p, least, vocab, KEY_BITS)
    count = _gather(line, store, low, top, vocab, CANDIDATES, STEP)
    gathered = count <= CANDIDATES
    n = tl.where(gathered, count, vocab)
    edge = _key(low, KEY_BITS)
    highest = _key(top, KEY_BITS)
    # What is asked about every candidate: where it lies, and its weight against the maximum.
    look = (line, store, gathered, n, top, inverse, least)
    total = full
    if (k > 0) & (k < vocab):
        edge = _bisect(look, edge, highest, k.to(tl.float64), True, KEY_BITS, STEP)
        total = _mass(look, edge, KEY_BITS, STEP)
    elif least > 0:
        total = _mass(look, edge, KEY_BITS, STEP)
    if p < 1:
        need = p.to(tl.float64) * total
        edge = _bisect(look, edge, highest, need, False, KEY_BITS, STEP)
    kept = _mass(look, edge, KEY_BITS, STEP)
    return _invert(look, edge, u * kept, KEY_BITS, STEP), kept


@triton.jit
def _gather(line, store, low, top, vocab, CANDIDATES: tl.constexpr, STEP: tl.constexpr):
    """Collects the tokens with z >= low in vocabulary order; returns their number.

    Stops storing past `CANDIDATES`; the number then only says that there were too many.
    """
    gathered_z, gathered_id = store
    count = tl.full((), 0, tl.int32)
    for start in range(0, vocab, STEP):
        at = start + tl.arange(0, STEP)
        z = tl.load(line + at, mask=at < vocab, other=-float("inf")).to(top.dtype)
        inside = (z >= low) & (z > -float("inf"))
        place = count + tl.cumsum(inside.to(tl.int32), axis=0) - 1
        room = inside & (count <= CANDIDATES)
        tl.store(gathered_z + place, z, mask=room)
        tl.store(gathered_id + place, at, mask=room)
        count += tl.sum(inside.to(tl.int32), axis=0)
    tl.debug_barrier()  # other threads of this program read what these stored
    return count


@triton.jit
def _candidates(look, start, STEP: tl.constexpr):
    """One tile of candidates: logits, weights (0 below min-p), token ids."""
    line, store, gathered, n, top, inverse, least = look
    gathered_z, gathered_id = store
    at = start + tl.arange(0, STEP)
    few = (at < n) & gathered
    many = (at < n) & (gathered == 0)
    near = tl.load(gathered_z + at, mask=few, other=-float("inf"))
    far = tl.load(line + at, mask=many, other=-float("inf")).to(near.dtype)
    z = tl.where(few, near, far)
    w = tl.exp((z - top) * inverse)
    w = tl.where(w >= least, w, 0.0)
    return z, w, tl.where(few, tl.load(gathered_id + at, mask=few, other=0), at)


@triton.jit
def _mass(look, edge, KEY_BITS: tl.constexpr, STEP: tl.constexpr):
    """Sum of the weights of the candidates at or above an edge."""
    total = tl.full((), 0, tl.float64)
    for start in range(0, look[3], STEP):
        z, w, _ = _candidates(look, start, STEP)
        total += tl.sum(tl.where(_key(z, KEY_BITS) >= edge, w.to(tl.float64), 0.0), axis=0)
    return total


@triton.jit
def _bisect(look, a, b, need, COUNT: tl.constexpr, KEY_BITS: tl.constexpr, STEP: tl.constexpr):
    """The largest key of a candidate in a..b at which `_mass` is at least ``need``.

    After each look the ends move on to keys that occur, so that the number of looks goes with the
    logarithm of the number of candidates and not with the width of a key.
    """
    while a < b:
        # Halves of both, so that the middle of far apart 64-bit keys does not overflow.
        middle = (a >> 1) + (b >> 1) + ((a | b) & 1)
        total = tl.full((), 0, tl.float64)
        above, below = b, a
        for start in range(0, look[3], STEP):
            z, w, _ = _candidates(look, start, STEP)
            keys = _key(z, KEY_BITS)
            inside = (keys >= middle) & (z > -float("inf"))
            if COUNT:
                total += tl.sum(inside.to(tl.int32), axis=0).to(tl.float64)
            else:
                total += tl.sum(tl.where(inside, w.to(tl.float64), 0.0), axis=0)
            above = tl.minimum(above, tl.min(tl.where(inside, keys, b), axis=0))
            below = tl.maximum(below, tl.max(tl.where(inside, a, keys), axis=0))
        a = tl.where(total >= need, above, a)
        b = tl.where(total >= need, b, below)
    return a


@triton.jit
def _invert(look, edge, target, KEY_BITS: tl.constexpr, STEP: tl.constexpr):
    """First kept candidate whose running sum exceeds the target, else the last one with weight."""
    before = tl.full((), 0, tl.float64)
    held = tl.full((), 0, tl.float64)  # running sum before the tile that holds the target
    tile = tl.full((), 0, tl.int32)
    for start in range(0, look[3], STEP):
        z, w, _ = _candidates(look, start, STEP)
        here = tl.sum(tl.where(_key(z, KEY_BITS) >= edge, w.to(tl.float64), 0.0), axis=0)
        # Until the target is passed, every tile with weight may turn out to be the last.
        takes = (before <= target) & (here > 0)
        tile = tl.where(takes, start, tile)
        held = tl.where(takes, before, held)
        before += here
    z, w, ids = _candidates(look, tile, STEP)
    w = tl.where(_key(z, KEY_BITS) >= edge, w.to(tl.float64), 0.0)
    over = (w > 0) & (held + tl.cumsum(w, axis=0) > target)
    i = tl.arange(0, STEP)
    first = tl.min(tl.where(over, i, STEP), axis=0)
    last = tl.max(tl.where(w > 0, i, 0), axis=0)
    return tl.sum(tl.where(i == tl.where(first < STEP, first, last), ids, 0), axis=0)
