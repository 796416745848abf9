"""Definition of `top_logprobs`: the whole row in float64, sorted."""

from __future__ import annotations

import torch

from fastsi.ops._checks import accumulate_dtype
from fastsi.ops.top_logprobs.api import TopLogprobs


def top_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, count: int, row_index: torch.Tensor | None
) -> TopLogprobs:
    """See `fastsi.ops.top_logprobs`."""
    rows = logits if row_index is None else logits[row_index]
    z, ids = rows.sort(dim=1, descending=True, stable=True)
    logprobs = torch.log_softmax(z.double(), dim=1)[:, :count]
    return TopLogprobs(
        ids[:, :count], logprobs.to(accumulate_dtype(logits.dtype)), rank_of(rows, tokens)
    )


def rank_of(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """int64 [R]: how many of its row's logits are larger than a token's, and 1; 0 for no token."""
    own = rows.gather(1, tokens.clamp(min=0)[:, None])
    return torch.where(tokens < 0, 0, (rows > own).sum(dim=1) + 1)
