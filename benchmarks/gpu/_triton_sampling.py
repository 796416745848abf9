"""Two other ways to draw a token, to be measured beside `ops.sample_tokens`.

`rejection_sample` is how FlashInfer truncates ("dual pivot rejection sampling"): from probabilities
that a softmax has written, draw by inversion among the tokens above a bound, accept the token if
top-k and top-p keep it, and raise the bound if not. Exact, without a sort, but every round reads
the row twice.

`head_sample` never writes logits: the product with the head ends in Gumbel-max (the largest of
z / T - log(E), E exponential, is a draw from softmax(z / T)) and leaves one candidate per row and
tile, and a second launch picks among them. Streams are Philox of (path key, position), as in the
package, but the tokens are other ones than inversion draws.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastsi.ops import SampleParams
from fastsi.ops._launch import on_device
from fastsi.ops._triton_variants import Variant

STEP = 4096  # probabilities that a program of `_reject` looks at together
ROUNDS = 64  # a bound on a loop that ends after two or three rounds
TILES = {80: (64, 128, 64), 90: (128, 128, 64)}
"""Rows, tokens and depth of a step of `_head` by compute capability; with operands in registers
(sm_80) 128 rows would spill."""
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _words(key, position, third, stream: tl.constexpr):
    """Four random 32-bit words of (key, position, third); the op's own draws have stream 0."""
    zero = tl.zeros_like(third)
    low = zero + (position & 0xFFFFFFFF).to(tl.uint32)
    high = zero + ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox(key, low, high, third, zero + stream)


@triton.jit
def _first_over(line, low, target, vocab, STEP: tl.constexpr):
    """First token above ``low`` whose running sum exceeds the target, else the last above it."""
    before = tl.full((), 0.0, tl.float32)
    found = tl.full((), -1, tl.int32)
    last = tl.full((), 0, tl.int32)
    for start in range(0, vocab, STEP):
        at = start + tl.arange(0, STEP)
        x = tl.load(line + at, mask=at < vocab, other=0.0)
        x = tl.where(x > low, x, 0.0)
        over = (x > 0) & (before + tl.cumsum(x, axis=0) > target)
        first = tl.min(tl.where(over, at, vocab), axis=0)
        found = tl.where((found < 0) & (first < vocab), first, found)
        last = tl.maximum(last, tl.max(tl.where(x > 0, at, 0), axis=0))
        before += tl.sum(x, axis=0)
    return tl.where(found < 0, last, found)


@triton.jit
def _above(line, pivot, middle, vocab, STEP: tl.constexpr):
    """Number and sum of the probabilities above two bounds."""
    count = tl.full((), 0, tl.int32)
    mass = tl.full((), 0.0, tl.float32)
    count_middle = tl.full((), 0, tl.int32)
    mass_middle = tl.full((), 0.0, tl.float32)
    for start in range(0, vocab, STEP):
        at = start + tl.arange(0, STEP)
        x = tl.load(line + at, mask=at < vocab, other=0.0)
        count += tl.sum((x > pivot).to(tl.int32), axis=0)
        mass += tl.sum(tl.where(x > pivot, x, 0.0), axis=0)
        count_middle += tl.sum((x > middle).to(tl.int32), axis=0)
        mass_middle += tl.sum(tl.where(x > middle, x, 0.0), axis=0)
    return count, mass, count_middle, mass_middle


@triton.jit
def _reject(
    probs,
    top_k,
    top_p,
    key,
    position,
    token,
    rounds,
    stride,
    vocab,
    STEP: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    """Grid [rows]: draw, and draw again above a higher bound while the token is not kept."""
    row = tl.program_id(0)
    line = probs + row.to(tl.int64) * stride
    k, p = tl.load(top_k + row), tl.load(top_p + row)
    k = tl.where(k > 0, k, vocab)
    p = tl.where(p < 1, p, 2.0)
    path, place = tl.load(key + row), tl.load(position + row)
    low = tl.full((), 0.0, tl.float32)
    high = tl.full((), 1.0, tl.float32)
    left = tl.full((), 1.0, tl.float32)
    chosen = tl.full((), 0, tl.int32)
    turn = tl.full((), 0, tl.int32)
    waiting = turn == 0
    while waiting:
        word, _, _, _ = _words(path, place, turn.to(tl.uint32), 1)
        u = word.to(tl.float32) * (1.0 / 4294967296.0)
        chosen = _first_over(line, low, u * left, vocab, STEP)
        pivot = tl.load(line + chosen)
        middle = (pivot + high) * 0.5
        count, mass, count_middle, mass_middle = _above(line, pivot, middle, vocab, STEP)
        # A token is kept if fewer than k tokens, of less than p together, lie above it. So all up
        # to the pivot are out, or, if those above the middle are enough, all up to there.
        kept = (count < k) & (mass < p)
        inner = (count_middle < k) & (mass_middle < p)
        low = tl.where(inner, pivot, middle)
        high = tl.where(inner, middle, high)
        left = tl.where(inner, mass, mass_middle)
        turn += 1
        waiting = (turn < ROUNDS) & (kept == 0)
    tl.store(token + row, chosen.to(tl.int64))
    tl.store(rounds + row, turn)


def rejection_sample(
    probs: torch.Tensor, params: SampleParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from probabilities float32 [R, vocab] under ``top_k`` and ``top_p``.

    Returns:
        (token int64 [R], rounds int32 [R]).
    """
    rows, vocab = probs.shape
    token = torch.empty(rows, dtype=torch.int64, device=probs.device)
    rounds = torch.empty(rows, dtype=torch.int32, device=probs.device)
    fields = (params.top_k, params.top_p, params.key, params.position)
    with on_device(probs):
        _reject[(rows,)](
            probs, *fields, token, rounds, probs.stride(0), vocab, STEP, ROUNDS, num_warps=16
        )
    return token, rounds


@triton.jit
def _gumbel(words):
    """-log of the exponential variates that 32-bit words stand for.

    The winner's variate is small, so it is the small ones that must be exact: -log(1 - u) of small
    u by its series, where the subtraction would lose the bits of u.
    """
    u = (words.to(tl.float32) + 0.5) * (1.0 / 4294967296.0)
    series = u * (1.0 + u * (0.5 + u * (0.33333334 + u * (0.25 + u * 0.2))))
    return 0.0 - tl.log(tl.where(u < 0.02, series, 0.0 - tl.log(1.0 - u)))


@triton.jit
def _noise(key, position, first, BM: tl.constexpr, BN: tl.constexpr):
    """Gumbel variates [BM, BN] of tokens from ``first``; four tokens share a call of Philox."""
    four = (first // 4 + tl.arange(0, BN // 4)).to(tl.uint32)[None, :]
    four = four + tl.zeros([BM, BN // 4], tl.uint32)
    x0, x1, x2, x3 = _words(key[:, None], position[:, None], four, 2)
    return _gumbel(tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), [BM, BN]))


@triton.jit
def _head(
    hidden,
    weight,
    temperature,
    key,
    position,
    best,
    best_id,
    best_z,
    top,
    total,
    rows,
    vocab,
    depth,
    hidden_row,
    weight_row,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Grid [row tiles * vocab tiles]: the candidate of each row, and its sum of weights."""
    row_tiles = tl.cdiv(rows, BM)
    tile = tl.program_id(0) // row_tiles  # neighbours read the same weights
    row = tl.program_id(0) % row_tiles * BM + tl.arange(0, BM)
    here = row < rows
    n = tile * BN + tl.arange(0, BN)
    d = tl.arange(0, BK)
    # Rows past the end read the first one: what they give is not stored.
    left = hidden + tl.where(here, row, 0).to(tl.int64)[:, None] * hidden_row + d[None, :]
    right = weight + tl.where(n < vocab, n, 0).to(tl.int64)[None, :] * weight_row + d[:, None]
    acc = tl.zeros([BM, BN], tl.float32)
    for start in range(0, depth, BK):
        a = tl.load(left, mask=d[None, :] < depth - start, other=0.0)
        b = tl.load(right, mask=d[:, None] < depth - start, other=0.0)
        acc = tl.dot(a, b, acc)
        left += BK
        right += BK
    t = tl.load(temperature + row, mask=here, other=1.0)
    z = acc * (1.0 / tl.where(t == 0, 1.0, t))[:, None]
    z = tl.where(n[None, :] < vocab, z, -float("inf"))
    peak = tl.max(z, axis=1)
    weights = tl.sum(tl.exp2((z - peak[:, None]) * LOG2_E), axis=1)
    path = tl.load(key + row, mask=here, other=0)
    place = tl.load(position + row, mask=here, other=0)
    noise = _noise(path, place, tile * BN, BM, BN)
    score = z + tl.where(t[:, None] == 0, 0.0, noise)
    most = tl.max(score, axis=1)
    first = tl.min(tl.where(score == most[:, None], n[None, :], 2147483647), axis=1)
    of_first = tl.max(tl.where(n[None, :] == first[:, None], z, -float("inf")), axis=1)
    out = tile.to(tl.int64) * rows + row
    tl.store(best + out, most, mask=here)
    tl.store(best_id + out, first, mask=here)
    tl.store(best_z + out, of_first, mask=here)
    tl.store(top + out, peak, mask=here)
    tl.store(total + out, weights, mask=here)


@triton.jit
def _pick(best, best_id, best_z, top, total, token, logprob, rows, tiles, TILES: tl.constexpr):
    """Grid [rows]: the best candidate of all tiles, and its log-probability."""
    row = tl.program_id(0)
    tile = tl.arange(0, TILES)
    at, inside = tile.to(tl.int64) * rows + row, tile < tiles
    score = tl.load(best + at, mask=inside, other=-float("inf"))
    peak = tl.load(top + at, mask=inside, other=-float("inf"))
    part = tl.load(total + at, mask=inside, other=0.0)
    whole = tl.max(peak, axis=0)
    lse = whole + tl.log(tl.sum(part * tl.exp2((peak - whole) * LOG2_E), axis=0))
    most = tl.max(score, axis=0)
    winner = tl.min(tl.where(score == most, tile, TILES), axis=0)
    found = winner.to(tl.int64) * rows + row
    tl.store(token + row, tl.load(best_id + found).to(tl.int64))
    tl.store(logprob + row, tl.load(best_z + found) - lse)


def head_sample(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    params: SampleParams,
    *,
    tile: tuple[int, int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from softmax(hidden @ weight.T / temperature); temperature 0 takes the first maximum.

    Args:
        hidden: [R, H], 16 bits or float32, rows dense.
        weight: [vocab, H], of the same type.
        params: only ``temperature``, ``key`` and ``position`` count.
        tile: rows, tokens and depth of a step; None: by the device.

    Returns:
        (token int64 [R], logprob float32 [R], at temperature 1 where that is 0).
    """
    if tile is None:
        recent = not hidden.is_cuda or torch.cuda.get_device_capability(hidden.device)[0] == 9
        tile = TILES[90 if recent else 80]
    (rows, depth), vocab = hidden.shape, weight.shape[0]
    tiles, device = triton.cdiv(vocab, tile[1]), hidden.device
    best, best_z, top, total = torch.empty((4, tiles, rows), device=device)
    best_id = torch.empty((tiles, rows), dtype=torch.int32, device=device)
    token = torch.empty(rows, dtype=torch.int64, device=device)
    logprob = torch.empty(rows, device=device)
    parts = (best, best_id, best_z, top, total)
    with on_device(hidden):
        _head[(triton.cdiv(rows, tile[0]) * tiles,)](
            hidden,
            weight,
            params.temperature,
            params.key,
            params.position,
            *parts,
            rows,
            vocab,
            depth,
            hidden.stride(0),
            weight.stride(0),
            *tile,
            num_warps=8,
            num_stages=3,
        )
        _pick[(rows,)](*parts, token, logprob, rows, tiles, triton.next_power_of_2(tiles))
    return token, logprob


def _variant(name, kernel, pointers, integers, constants, divisible, **options):
    signature = pointers | dict.fromkeys(integers, "i32") | dict.fromkeys(constants, "constexpr")
    return Variant(
        name=name,
        kernel=kernel,
        signature=signature,
        constants=constants,
        divisible=(*pointers, *divisible),
        **options,
    )


_STREAM = {"key": "*i64", "position": "*i64"}
_PARTS = {"best": "*fp32", "best_id": "*i32", **dict.fromkeys(("best_z", "top", "total"), "*fp32")}
VARIANTS = (
    _variant(
        "reject",
        _reject,
        {"probs": "*fp32", "top_k": "*i32", "top_p": "*fp32", **_STREAM}
        | {"token": "*i64", "rounds": "*i32"},
        ("stride", "vocab"),
        {"STEP": STEP, "ROUNDS": ROUNDS},
        ("stride", "vocab"),
        num_warps=16,
    ),
    *(
        _variant(
            f"head-bf16-sm_{capability}",
            _head,
            {"hidden": "*bf16", "weight": "*bf16", "temperature": "*fp32", **_STREAM, **_PARTS},
            ("rows", "vocab", "depth", "hidden_row", "weight_row"),
            dict(zip(("BM", "BN", "BK"), tile, strict=True)),
            ("rows", "vocab", "depth", "hidden_row", "weight_row"),
            num_warps=8,
            num_stages=3,
        )
        for capability, tile in TILES.items()
    ),
    _variant(
        "pick",
        _pick,
        _PARTS | {"token": "*i64", "logprob": "*fp32"},
        ("rows", "tiles"),
        {"TILES": 1024},
        ("rows",),
    ),
)
