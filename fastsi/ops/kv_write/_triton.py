# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Triton backend of `kv_write`: one launch scatters keys and values.

Each program copies the rows of one tensor for `ROWS` (row, head) pairs, so that small head sizes
still move full lines. Values are copied as integers, which keeps every bit; only float32 that goes
into a bfloat16 cache is rounded.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastsi.ops._launch import on_device, rows_dense
from fastsi.ops._triton_variants import Variant

ROWS = 8
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _scatter(
    k,
    v,
    k_cache,
    v_cache,
    slots,
    pairs,
    num_slots,
    k_row,
    k_head,
    v_row,
    v_head,
    heads,
    page_size,
    dim,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    ROUND: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row, head = pair // heads, pair % heads
    slot = tl.load(slots + row, mask=pair < pairs, other=-1)
    used = (slot >= 0) & (slot < num_slots)
    page, offset = slot // page_size, slot % page_size
    target = ((page * heads + head) * page_size + offset) * dim
    at = tl.arange(0, DIM)[None, :]
    mask = used[:, None] & (at < dim)
    if tl.program_id(1) == 0:
        source = (row * k_row + head * k_head)[:, None] + at
        value = tl.load(k + source, mask=mask)
        _put(k_cache + target[:, None] + at, value, mask, ROUND)
    else:
        source = (row * v_row + head * v_head)[:, None] + at
        value = tl.load(v + source, mask=mask)
        _put(v_cache + target[:, None] + at, value, mask, ROUND)


@triton.jit
def _put(target, value, mask, ROUND: tl.constexpr):
    if ROUND:
        # The bits of a float32 and of a bfloat16, to nearest, ties to even. NaN stays NaN: the
        # addition could carry its payload into the sign.
        bits = value.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        nan = (bits & 0x7FFFFFFF) > 0x7F800000
        value = tl.where(nan, (bits >> 16) | 0x40, rounded).to(tl.uint16).to(tl.int16, bitcast=True)
    tl.store(target, value, mask=mask)


def kv_write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """See `fastsi.ops.kv_write`; slots outside the cache are skipped, as checking would wait."""
    rows, heads, dim = k.shape
    if k.numel() == 0:
        return
    k, v, slots = rows_dense(k), rows_dense(v), slots.contiguous()
    pages, page_size = k_cache.shape[0], k_cache.shape[2]
    read, write = (_INTEGER[tensor.element_size()] for tensor in (k, k_cache))
    with on_device(k):
        _scatter[(triton.cdiv(rows * heads, ROWS), 2)](
            k.view(read),
            v.view(read),
            k_cache.view(write),
            v_cache.view(write),
            slots,
            rows * heads,
            pages * page_size,
            k.stride(0),
            k.stride(1),
            v.stride(0),
            v.stride(1),
            heads,
            page_size,
            dim,
            DIM=triton.next_power_of_2(dim),
            ROWS=ROWS,
            ROUND=read != write,
        )


def _variant(name: str, dim: int, source: str, target: str) -> Variant:
    strides = ("k_row", "k_head", "v_row", "v_head")
    pointers = {"k": source, "v": source, "k_cache": target, "v_cache": target, "slots": "*i64"}
    integers = dict.fromkeys(("pairs", "num_slots", *strides, "heads", "page_size", "dim"), "i32")
    constants = {"DIM": dim, "ROWS": ROWS, "ROUND": source != target}
    return Variant(
        name=name,
        kernel=_scatter,
        signature={**pointers, **integers, **dict.fromkeys(constants, "constexpr")},
        constants=constants,
        divisible=(*pointers, "num_slots", *strides, "page_size", "dim"),
    )


VARIANTS = (
    _variant("16-bit-64", 64, "*i16", "*i16"),
    _variant("16-bit-128", 128, "*i16", "*i16"),
    _variant("32-bit-128", 128, "*i32", "*i32"),
    _variant("rounding-128", 128, "*i32", "*i16"),
)
