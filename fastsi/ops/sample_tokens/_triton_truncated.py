# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Draw among the tokens that min-p, top-k and top-p keep, without a sort; see `_triton`.

A key is an integer that orders like a logit. Other names are those of `_triton_kernels`.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
