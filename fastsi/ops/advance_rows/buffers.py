"""What a pass over decoding rows reads, and `advance_rows` changes from one pass to the next."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowBuffers:
    """Inputs of R rows whose attention reads S segments, and E spans of single rows besides."""

    ids: torch.Tensor
    """int64 [R], contiguous: the token that each row reads."""
    moving: torch.Tensor
    """int64 [N, R], contiguous: numbers that grow by one per token, as positions do."""
    row_pos: torch.Tensor
    """int32 [R], contiguous: `SegmentPlan.row_pos`."""
    kv_len: torch.Tensor
    """int32 [S], contiguous: `SegmentPlan.kv_len`."""
    span_ends: torch.Tensor
    """int32 [E], any stride: where the spans end."""
    live: torch.Tensor
    """int64 [R + 1], contiguous: 1 for rows that move, 0 for the rest and for the last entry, which
    is no row's."""
    grows_with: torch.Tensor
    """int64 [S + E], contiguous: the entry of ``live`` that says whether a segment, or a span,
    gets a token more. Not checked: a read on a GPU would wait."""
