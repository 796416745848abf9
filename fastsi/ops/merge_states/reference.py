"""Definition of `merge_states`: softmax over the partial log-sums weighs the partial results."""

from __future__ import annotations

import torch

from fastsi.ops._checks import accumulate_dtype


def merge_states(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fastsi.ops.merge_states`."""
    dtype = accumulate_dtype(outs.dtype)
    lse = torch.logsumexp(lses.to(dtype), dim=0)
    weight = torch.exp(lses.to(dtype) - lse.masked_fill(lse == -torch.inf, 0.0))
    return (weight[..., None] * outs.to(dtype)).sum(dim=0).to(outs.dtype), lse
