"""Public face of `top_logprobs`: checks and the choice of a backend."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastsi.ops import _checks, _registry


class TopLogprobs(NamedTuple):
    """Of R rows."""

    token_ids: torch.Tensor
    """int64 [R, count], likeliest first; of equally likely ones the first, on a GPU any."""
    logprobs: torch.Tensor
    """[R, count], natural log over the whole vocabulary; float32 (float64 of float64 logits)."""
    rank: torch.Tensor
    """int64 [R]: 1 + the number of tokens that are likelier than the given one; 0 for none."""


def top_logprobs(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    count: int,
    *,
    row_index: torch.Tensor | None = None,
    backend: str = "auto",
) -> TopLogprobs:
    """The ``count`` likeliest tokens of each row at temperature 1, and how given tokens rank.

    Nothing waits for the device. Of a row with NaN or +inf the results mean nothing, nor, on a GPU,
    do those of a token or an index outside its range.

    Args:
        logits: [L, vocab], floating; any row stride with a contiguous last dimension.
        tokens: int64 [R], one per row; -1 where there is none.
        count: tokens to list, 0 to vocab.
        row_index: int64 [R]: row r reads ``logits[row_index[r]]``; None: R = L, row r reads row r.
        backend: a name, or "auto".

    Raises:
        ValueError: shapes, dtypes or devices disagree, or ``count`` or, on a CPU, an index lies
            outside its range.
        BackendUnavailable: the requested backend cannot run.
    """
    _checks.require_float("logits", logits)
    _checks.require_shape("logits", logits, (None, None))
    rows = logits.shape[0] if row_index is None else row_index.shape[0]
    _checks.require_shape("tokens", tokens, (rows,))
    _checks.require_dtype("tokens", tokens, torch.int64)
    _checks.require_device("tokens", tokens, logits.device)
    if row_index is not None:
        _checks.require_shape("row_index", row_index, (None,))
        _checks.require_dtype("row_index", row_index, torch.int64)
        _checks.require_device("row_index", row_index, logits.device)
    if not 0 <= count <= logits.shape[1]:
        raise ValueError(f"count: is {count}, must be in 0..{logits.shape[1]}, the vocabulary")
    run = _registry.choose("top_logprobs", _registry.facts(logits), backend)
    found: TopLogprobs = run(logits, tokens, count, row_index)
    return found
