"""GPU backend of `top_logprobs`: torch's own selection, which reads a row a few times."""

from __future__ import annotations

import torch

from fastsi.ops._checks import accumulate_dtype
from fastsi.ops.top_logprobs.api import TopLogprobs
from fastsi.ops.top_logprobs.reference import rank_of


def top_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, count: int, row_index: torch.Tensor | None
) -> TopLogprobs:
    """See `fastsi.ops.top_logprobs`."""
    # What is outside may not stop the device: it gives a result that means nothing.
    tokens = tokens.clamp(max=logits.shape[1] - 1)
    rows = logits if row_index is None else logits[row_index.clamp(0, len(logits) - 1)]
    wide = accumulate_dtype(logits.dtype)
    z, ids = torch.topk(rows, count, dim=1)
    z = z.to(wide)
    if count > 0:  # as log_softmax does: two small numbers lose less than one large one
        total = (rows.to(wide) - z[:, :1]).exp().sum(dim=1, keepdim=True)
        z = (z - z[:, :1]) - total.log()
    return TopLogprobs(ids, z, rank_of(rows, tokens))
