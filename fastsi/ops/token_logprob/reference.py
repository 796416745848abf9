"""Definition of `token_logprob`: all logits, then one column per row."""

from __future__ import annotations

import torch
from torch.nn import functional

from fastsi.ops._checks import accumulate_dtype


def token_logprob(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    temperature: float,
    softcap: float | None,
    ignore_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fastsi.ops.token_logprob`."""
    z = functional.linear(hidden, weight, bias).to(accumulate_dtype(hidden.dtype))
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature
    lse = z.logsumexp(dim=1)
    used = targets != ignore_index
    inside = used & (targets >= 0) & (targets < weight.shape[0])
    chosen = z.gather(1, torch.where(inside, targets, 0)[:, None])[:, 0]
    logprob = torch.where(used, chosen - lse, 0.0)
    return logprob.masked_fill(used & ~inside, torch.nan), lse
