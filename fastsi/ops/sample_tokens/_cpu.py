"""C++ backend of `sample_tokens`."""

from __future__ import annotations

import torch

from fastsi import _ext
from fastsi.ops._checks import accumulate_dtype
from fastsi.ops._view import rows_dense, view
from fastsi.ops.sample_tokens.params import LogitAdjust, SampledTokens, SampleParams

_C = _ext.core()

# In the order of the C++ structs.
PARAMS = ("temperature", "top_k", "top_p", "min_p", "key", "position")
_ADJUST = (
    "indptr",
    "token_ids",
    "bias",
    "count",
    "in_prompt",
    "repetition",
    "presence",
    "frequency",
)


def sample_tokens(
    logits: torch.Tensor,
    params: SampleParams,
    row_index: torch.Tensor | None,
    adjust: LogitAdjust | None,
    raw: bool,
) -> SampledTokens:
    """See `fastsi.ops.sample_tokens`; a row without a usable logit gets token -1."""
    logits = rows_dense(logits)
    given = [getattr(params, name).contiguous() for name in PARAMS]
    index = None if row_index is None else row_index.contiguous()
    changes = None if adjust is None else [getattr(adjust, name).contiguous() for name in _ADJUST]
    rows, dtype = params.num_rows, accumulate_dtype(logits.dtype)
    drawn = SampledTokens(
        token=torch.empty(rows, dtype=torch.int64),
        logprob=torch.empty(rows, dtype=dtype),
        logprob_full=torch.empty(rows, dtype=dtype),
        kept_mass=torch.empty(rows, dtype=dtype),
        logprob_raw=torch.empty(rows, dtype=dtype) if raw else None,
    )
    _C.sample_tokens(
        view(logits),
        [view(tensor) for tensor in given],
        None if index is None else view(index),
        None if changes is None else [view(tensor) for tensor in changes],
        [view(t) for t in (drawn.token, drawn.logprob, drawn.logprob_full, drawn.kept_mass)],
        None if drawn.logprob_raw is None else view(drawn.logprob_raw),
        torch.get_num_threads(),
    )
    return drawn
