"""C++ backend of `advance_rows`."""

from __future__ import annotations

import dataclasses

import torch

from fastsi import _ext
from fastsi.ops._view import view
from fastsi.ops.advance_rows.buffers import RowBuffers

_C = _ext.core()


def advance_rows(
    token: torch.Tensor, slots: torch.Tensor, last: torch.Tensor, rows: RowBuffers
) -> None:
    """See `fastsi.ops.advance_rows`."""
    fields = [view(getattr(rows, field.name)) for field in dataclasses.fields(rows)]
    _C.advance_rows(view(token), view(slots), view(last), fields)
