# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Triton backend of `advance_rows`: one launch, each program a stretch of rows and of spans.

What every program reads of others' stretches (`live`) is written by none, so they need no order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastsi.ops._launch import on_device
from fastsi.ops._triton_variants import Variant
from fastsi.ops.advance_rows.buffers import RowBuffers

BLOCK = 128  # rows, and segments or spans, per program


@triton.jit
def _advance(
    token,
    slots,
    last,
    ids,
    moving,
    row_pos,
    kv_len,
    span_ends,
    live,
    grows_with,
    rows,
    segments,
    spans,
    span_stride,
    numbers,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = at < rows
    drawn = tl.maximum(tl.load(token + at, mask=row, other=0), 0)
    tl.store(last + tl.load(slots + at, mask=row, other=0), drawn, mask=row)
    step = tl.load(live + at, mask=row, other=0)
    tl.store(ids + at, drawn, mask=row & (step > 0))
    for number in range(numbers):
        to = moving + number * rows + at
        tl.store(to, tl.load(to, mask=row, other=0) + step, mask=row)
    _add(row_pos + at, step, row)
    grown = at < segments + spans
    step = tl.load(live + tl.load(grows_with + at, mask=grown, other=rows), mask=grown, other=0)
    _add(kv_len + at, step, at < segments)
    _add(span_ends + (at - segments) * span_stride, step, grown & (at >= segments))


@triton.jit
def _add(to, step, mask):
    tl.store(to, tl.load(to, mask=mask, other=0) + step.to(tl.int32), mask=mask)


def advance_rows(
    token: torch.Tensor, slots: torch.Tensor, last: torch.Tensor, rows: RowBuffers
) -> None:
    """See `fastsi.ops.advance_rows`; indices are not checked, as that would wait."""
    count, segments, spans = len(token), len(rows.kv_len), len(rows.span_ends)
    most = max(count, segments + spans)
    if most == 0:
        return
    with on_device(token):
        _advance[(triton.cdiv(most, BLOCK),)](
            *(token, slots, last, rows.ids, rows.moving, rows.row_pos, rows.kv_len),
            *(rows.span_ends, rows.live, rows.grows_with),
            *(count, segments, spans, rows.span_ends.stride(0), len(rows.moving)),
            BLOCK=BLOCK,
        )


def _variant() -> Variant:
    long = ("token", "slots", "last", "ids", "moving", "live", "grows_with")
    types = dict.fromkeys(long, "*i64")
    types |= dict.fromkeys(("row_pos", "kv_len", "span_ends"), "*i32")
    order = ("token", "slots", "last", "ids", "moving", "row_pos", "kv_len", "span_ends")
    pointers = {name: types[name] for name in (*order, "live", "grows_with")}
    sizes = ("rows", "segments", "spans", "span_stride", "numbers")
    return Variant(
        name="advance",
        kernel=_advance,
        signature={**pointers, **dict.fromkeys(sizes, "i32"), "BLOCK": "constexpr"},
        constants={"BLOCK": BLOCK},
        # A column of the spans begins where it begins.
        divisible=tuple(name for name in pointers if name != "span_ends"),
    )


VARIANTS = (_variant(),)
