"""Calls of segment_attention over int8 caches, truth in float64, and how far rounding may lead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fastsi.ops import SegmentPlan, kv_write, segment_attention
from fastsi.ops.kv_quant import dequantise, rotate
from tests.ops.support import qkv

QUERY_LEVELS, WEIGHT_LEVELS = 63, 127
"""Fewest steps from 0 to the largest magnitude: 7 bits, the weights' without a sign."""
SIGMAS = 6
"""Of a rounding error, which is uniform: its standard deviation is a step / sqrt(12)."""


def share_of_bounds(runner: str, *, per_path: bool) -> float:
    """How much of the bounds of `truth_of` a runner may take: 0 for float32 arithmetic.

    Their steps are those of 7 bits; those of 8 bits, which instruction sets with VNNI use for
    spans of every kind, are half as large.
    """
    if runner == "reference":
        return 0.0
    if runner.endswith(("vnni", "amx")):
        return 64 / 127
    return 0.0 if per_path else 1.0


class Case(NamedTuple):
    """Arguments of a call."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scales: dict[str, torch.Tensor]

    def attend(
        self, plan: SegmentPlan, rows: list[int] | None = None, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The op, of some rows."""
        q = self.q if rows is None else self.q[rows]
        return segment_attention(q, self.k, self.v, plan, **self.scales, **options)


def make_case(
    plan: SegmentPlan,
    *,
    heads: tuple[int, int],
    head_dim: int,
    page_size: int,
    pages: int,
    seed: int,
    outliers: bool = True,
    change: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None,
) -> Case:
    """Random queries over a cache that `kv_write` has filled; keys have a few large channels.

    Args:
        plan: rows and spans.
        heads: of queries and of keys.
        head_dim: of all.
        page_size: tokens.
        pages: of the cache.
        seed: of all random numbers.
        outliers: whether there are large channels.
        change: called with queries, keys and values [pages, heads, page_size, head_dim] before they
            are written.
    """
    q, keys, values = qkv(
        plan,
        heads=heads,
        head_dim=head_dim,
        page_size=page_size,
        pages=pages,
        seed=seed,
        dtype=torch.float32,
    )
    if outliers:
        keys[..., :: max(head_dim // 3, 1)] *= 4
    if change is not None:
        change(q, keys, values)
    rows = keys.shape[0] * page_size
    k, v = (torch.zeros(keys.shape, dtype=torch.int8) for _ in range(2))
    scales = {name: torch.zeros(keys.shape[:3]) for name in ("k_scale", "v_scale")}
    flat = (x.transpose(1, 2).reshape(rows, heads[1], head_dim) for x in (keys, values))
    kv_write(*flat, k, v, torch.arange(rows), **scales, backend="reference")
    return Case(q, k, v, scales)


class Truth(NamedTuple):
    """In float64, of what the integers stand for; and how far rounding may lead."""

    out: torch.Tensor
    lse: torch.Tensor
    out_bound: torch.Tensor
    """As out."""
    lse_bound: torch.Tensor
    """As lse."""


def truth_of(
    case: Case,
    plan: SegmentPlan,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> Truth:
    """Scores of all rows against all tokens, and first-order bounds of rounding.

    A query has a step of max|q| / 63, so the score of token t is off by d_t of deviation
    scale * ||k_t|| * step / sqrt(12) (a soft-cap only shrinks it). lse then moves by at most
    max d_t, and out by at most max d_t * sum p_t |v_t - out|, which is at most max d_t times the
    deviation of v under p. Weights w_t = p_t * scale of v_t have a step of at most max w / 127: out
    moves by a sum of independent errors of at most min(w_t, step / 2) each.
    """
    groups = case.q.shape[1] // case.k.shape[1]
    k, v, weight_unit = [], [], []
    segment, position = [], []
    for s in range(plan.num_segments):
        first = int(plan.page_indptr[s])
        for token in range(int(plan.kv_len[s])):
            slot = int(plan.page_offset[s]) + token
            place = (int(plan.page_ids[first + slot // case.k.shape[2]]), slice(None))
            place += (slot % case.k.shape[2],)
            k.append(dequantise(case.k[place], case.scales["k_scale"][place], torch.float64))
            v.append(dequantise(case.v[place], case.scales["v_scale"][place], torch.float64))
            weight_unit.append(case.scales["v_scale"][place].double())
            segment.append(s)
            position.append(int(plan.kv_start[s]) + token)
    rows, q_heads, dim = case.q.shape
    if not k:
        zero = torch.zeros(rows, q_heads, dim, dtype=torch.float64)
        return Truth(zero, zero[..., 0] - torch.inf, zero, zero[..., 0])
    keys, values, unit = (torch.stack(x).repeat_interleave(groups, 1) for x in (k, v, weight_unit))
    where, at = torch.tensor(segment), torch.tensor(position)
    row, distance = torch.arange(rows)[:, None], plan.row_pos[:, None] - at
    seen = (plan.row_begin[where] <= row) & (row < plan.row_end[where])
    seen &= (plan.causal[where] == 0) | (distance >= 0)
    seen = (seen & (distance < window) if window is not None else seen)[:, None]

    q, factor = rotate(case.q.double()), dim**-0.5 if scale is None else scale
    score = torch.einsum("rhd,thd->rht", q, keys) * factor
    score = score if softcap is None else softcap * torch.tanh(score / softcap)
    score = score.masked_fill(~seen, -torch.inf)
    lse = score.logsumexp(2)
    p = torch.exp(score - lse.masked_fill(lse == -torch.inf, 0.0)[..., None])
    out = torch.einsum("rht,thd->rhd", p, values)

    off = (
        q.abs().amax(2)[..., None] * keys.norm(dim=2).T * (factor * SIGMAS / QUERY_LEVELS / 12**0.5)
    )
    moved = off.masked_fill(~seen, 0.0).amax(2)
    variance = torch.einsum("rht,thd->rhd", p, values.square()) - out.square()
    spread = variance.clamp_min(0).sqrt()
    weight = p * unit.T
    step = weight.amax(2, keepdim=True) / WEIGHT_LEVELS
    loss = torch.minimum(weight, step / 2).square()
    steps = (values / unit[..., None].clamp_min(1e-300)).square()
    rounded = SIGMAS * torch.einsum("rht,thd->rhd", loss, steps).sqrt()
    return Truth(out, lse, moved.exp()[..., None] * moved[..., None] * spread + rounded, moved)


def assert_within(
    got: tuple[torch.Tensor, torch.Tensor], truth: Truth, factor: float = 1.0
) -> None:
    """Results lie within the bounds, plus float32's own error."""
    out, lse = got
    assert out.isfinite().all()
    largest = truth.out.abs().max().item() if truth.out.numel() else 0.0
    error = (out.double() - truth.out).abs() - factor * truth.out_bound
    assert (error <= 1e-5 * (1 + largest)).all(), f"out is {error.max():.3g} beyond its bound"
    blind = truth.lse == -torch.inf
    assert torch.equal(lse == -torch.inf, blind)
    off = (lse.double() - truth.lse)[~blind].abs()
    limit = factor * truth.lse_bound[~blind] + 1e-5 * (1 + truth.lse[~blind].abs())
    assert (off <= limit).all(), f"lse is {(off - limit).max():.3g} beyond its bound"
