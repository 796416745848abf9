"""Definition of `sample_tokens`: truncate by a sort, then invert the cumulative sum."""

from __future__ import annotations

import torch

from fastsi.ops._checks import accumulate_dtype
from fastsi.ops.sample_tokens.params import LogitAdjust, SampledTokens, SampleParams
from fastsi.ops.sample_tokens.stream import uniform


def sample_tokens(
    logits: torch.Tensor,
    params: SampleParams,
    row_index: torch.Tensor | None,
    adjust: LogitAdjust | None,
    raw: bool,
) -> SampledTokens:
    """See `fastsi.ops.sample_tokens`; a row without a usable logit gets token -1."""
    rows = logits if row_index is None else logits[row_index]
    z = adjusted(rows.to(accumulate_dtype(logits.dtype)), adjust)
    top, greedy = z.amax(dim=1, keepdim=True), (params.temperature == 0)[:, None]
    t = torch.where(greedy, 1.0, params.temperature[:, None].to(z.dtype))
    weight = torch.exp((z - top) / t).double()
    kept = weight * (truncated(z, weight, params) | greedy)
    running = kept.cumsum(dim=1)
    total, u = running[:, -1:], uniform(params.key, params.position)[:, None]
    above, last = running > u * total, (running < total).sum(dim=1)
    drawn = torch.where(above.any(dim=1), above.int().argmax(dim=1), last)
    token = torch.where(greedy[:, 0], z.argmax(dim=1), drawn)[:, None]
    shifted = ((z - top) / t).gather(1, token).double()
    logprob, full = shifted - total.log(), shifted - weight.sum(dim=1, keepdim=True).log()
    plain = None
    if raw:  # the same bits where it is the same number
        same = t == 1 if adjust is None else (t == 1) & (adjust.indptr.diff() == 0)[:, None]
        plain = torch.where(same, full, rows.double().log_softmax(dim=1).gather(1, token))
    good = top.isfinite() & ~z.isnan().any(dim=1, keepdim=True)
    results = (logprob.to(z.dtype), full.to(z.dtype), (full - logprob).exp().to(z.dtype))
    logprob, full, mass = (x[:, 0] for x in results)
    return SampledTokens(
        token=torch.where(good, token, -1)[:, 0],
        logprob=logprob,
        logprob_full=full,
        kept_mass=mass,
        logprob_raw=None if plain is None else plain[:, 0].to(z.dtype),
    )


def adjusted(z: torch.Tensor, adjust: LogitAdjust | None) -> torch.Tensor:
    """A copy of ``z`` [R, vocab] with bias and penalties applied to the listed tokens."""
    if adjust is None:
        return z.clone()
    row = torch.repeat_interleave(adjust.indptr.diff())
    at = (row, adjust.token_ids.long())
    value = z[at] + adjust.bias
    per_row = (adjust.repetition, adjust.frequency, adjust.presence)
    factor, frequency, presence = (field[row].to(z.dtype) for field in per_row)
    seen = (adjust.count > 0) | (adjust.in_prompt != 0)
    repeated = torch.where(value > 0, value / factor, value * factor)
    value = torch.where(seen, repeated, value) - frequency * adjust.count
    return z.index_put(at, value - presence * (adjust.count > 0))


def truncated(z: torch.Tensor, weight: torch.Tensor, params: SampleParams) -> torch.Tensor:
    """Which tokens min-p, top-k and top-p keep: bool [R, vocab]; weights are 1 at the maximum."""
    vocab = z.shape[1]
    order = z.sort(dim=1, descending=True)
    k = torch.where(params.top_k > 0, params.top_k, vocab).clamp(max=vocab).long()[:, None]
    keep = (weight >= params.min_p[:, None]) & (z >= order.values.gather(1, k - 1))
    mass = (weight * keep).gather(1, order.indices).cumsum(dim=1)
    reached = mass >= params.top_p[:, None].double() * mass[:, -1:]
    edge = order.values.gather(1, reached.int().argmax(dim=1, keepdim=True))
    return keep & ((z >= edge) | (params.top_p >= 1)[:, None])
