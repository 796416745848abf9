"""Definition of `advance_rows` in plain torch."""

from __future__ import annotations

import torch

from fastsi.ops.advance_rows.buffers import RowBuffers


def advance_rows(
    token: torch.Tensor, slots: torch.Tensor, last: torch.Tensor, rows: RowBuffers
) -> None:
    """See `fastsi.ops.advance_rows`."""
    token, live = token.clamp(min=0), rows.live[:-1]
    last[slots] = token
    rows.ids.copy_(torch.where(live > 0, token, rows.ids))
    rows.moving.add_(live)
    rows.row_pos.add_(live)
    grown = rows.live[rows.grows_with]
    segments = len(rows.kv_len)
    rows.kv_len.add_(grown[:segments])
    rows.span_ends.add_(grown[segments:])
