"""C++ backend of `top_logprobs`."""

from __future__ import annotations

import torch

from fastsi import _ext
from fastsi.ops._checks import accumulate_dtype
from fastsi.ops._view import maybe_view, rows_dense, view
from fastsi.ops.top_logprobs.api import TopLogprobs

_C = _ext.core()


def top_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, count: int, row_index: torch.Tensor | None
) -> TopLogprobs:
    """See `fastsi.ops.top_logprobs`."""
    shape = (len(tokens), count)
    found = TopLogprobs(
        torch.empty(shape, dtype=torch.int64),
        torch.empty(shape, dtype=accumulate_dtype(logits.dtype)),
        torch.empty(len(tokens), dtype=torch.int64),
    )
    logits, tokens = rows_dense(logits), tokens.contiguous()
    index = None if row_index is None else row_index.contiguous()
    _C.top_logprobs(
        view(logits),
        view(tokens),
        maybe_view(index),
        *map(view, found),
        torch.get_num_threads(),
    )
    return found
