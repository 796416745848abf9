"""Public face of `advance_rows`: checks and the choice of a backend."""

from __future__ import annotations

import torch

from fastsi.ops import _checks, _registry
from fastsi.ops.advance_rows.buffers import RowBuffers


def advance_rows(
    token: torch.Tensor,
    slots: torch.Tensor,
    last: torch.Tensor,
    rows: RowBuffers,
    *,
    backend: str = "auto",
) -> None:
    """Store what rows have drawn, and make their buffers those of the next token.

    Rows that move read the token that they drew, one position further on, and what grows with them
    is a token longer. One launch on a GPU, without anything that the host must know; so it can be
    the end of a recorded pass.

    Args:
        token: int64 [R], the tokens drawn; below 0, which says that a row had no usable logit,
            counts as 0.
        slots: int64 [R], where each token goes in ``last``; of rows with one slot, any one's stays.
        last: int64 [L], contiguous; modified.
        rows: of the same R rows; modified, but for ``live`` and ``grows_with``.
        backend: a name, or "auto".

    Raises:
        ValueError: shapes, dtypes or devices disagree, or, on a CPU, a slot lies outside ``last``
            or an entry of ``grows_with`` outside ``live``; nothing has been changed then.
        BackendUnavailable: the requested backend cannot run.
    """
    count = token.shape[0]
    segments, spans = rows.kv_len.shape[0], rows.span_ends.shape[0]
    long, short = torch.int64, torch.int32
    for name, tensor, dtype, shape in (
        ("token", token, long, (count,)),
        ("slots", slots, long, (count,)),
        ("last", last, long, (None,)),
        ("rows.ids", rows.ids, long, (count,)),
        ("rows.moving", rows.moving, long, (None, count)),
        ("rows.row_pos", rows.row_pos, short, (count,)),
        ("rows.kv_len", rows.kv_len, short, (segments,)),
        ("rows.span_ends", rows.span_ends, short, (spans,)),
        ("rows.live", rows.live, long, (count + 1,)),
        ("rows.grows_with", rows.grows_with, long, (segments + spans,)),
    ):
        _checks.require_shape(name, tensor, shape)
        _checks.require_dtype(name, tensor, dtype)
        _checks.require_device(name, tensor, token.device)
        if name != "rows.span_ends" and not tensor.is_contiguous():
            raise ValueError(f"{name}: must be contiguous, strides are {tensor.stride()}")
    run = _registry.choose("advance_rows", _registry.facts(token), backend)
    run(token, slots, last, rows)
