# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Triton kernels of `linear`."""

from __future__ import annotations

import triton
import triton.language as tl

from fastsi.ops._triton_activations import activate


@triton.jit
def _accumulate(
    x,
    gate,
    up,
    rows,
    columns,
    row_inside,
    column_inside,
    begin,
    end,
    depth,
    x_row,
    gate_row,
    gate_column,
    up_row,
    up_column,
    PAIR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Products [BLOCK_M, BLOCK_N] over elements begin to end of K; the second one for a pair."""
    y = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    at = begin + tl.arange(0, BLOCK_K)
    x += rows[:, None] * x_row + at[None, :]
    gate += columns[None, :] * gate_row + at[:, None] * gate_column
    up += columns[None, :] * up_row + at[:, None] * up_column
    for first in range(begin, end, BLOCK_K):
        inside = first + tl.arange(0, BLOCK_K) < depth
        a = tl.load(x, row_inside[:, None] & inside[None, :], 0.0)
        mask = inside[:, None] & column_inside[None, :]
        b = tl.load(gate, mask, 0.0)
        y = tl.dot(a, b, y, input_precision="ieee")
        if PAIR:
            c = tl.load(up, mask, 0.0)
            z = tl.dot(a, c, z, input_precision="ieee")
        x += BLOCK_K
        gate += BLOCK_K * gate_column
        up += BLOCK_K * up_column
    return y, z


@triton.jit
def _finish(
    y,
    z,
    bias,
    residual,
    out,
    rows,
    columns,
    inside,
    num_columns,
    residual_row,
    out_row,
    PAIR: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """What follows the product, in float32, and one rounding."""
    column_inside = columns < num_columns
    if HAS_BIAS:
        y += tl.load(bias + columns, column_inside, 0.0).to(tl.float32)[None, :]
        if PAIR:
            z += tl.load(bias + num_columns + columns, column_inside, 0.0).to(tl.float32)[None, :]
    if ACTIVATION != "none":
        y = activate(y, ACTIVATION)
    if PAIR:
        y = y * z
    if HAS_RESIDUAL:
        old = tl.load(residual + rows[:, None] * residual_row + columns[None, :], inside, 0.0)
        y += old.to(tl.float32)
    tl.store(out + rows[:, None] * out_row + columns[None, :], y.to(out.dtype.element_ty), inside)


@triton.jit
def _linear(
    x,
    gate,
    up,
    bias,
    residual,
    row_index,
    out,
    parts,
    num_rows,
    num_columns,
    depth,
    part_depth,
    x_row,
    gate_row,
    gate_column,
    up_row,
    up_column,
    residual_row,
    out_row,
    PAIR: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_INDEX: tl.constexpr,
    ACTIVATION: tl.constexpr,
    APART: tl.constexpr,
    ONE_PART: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Grid (tiles, parts of K if APART): sums of a part to `parts`, or the finished tile to `out`.

    Tiles go down `GROUP` tiles of rows before they go on to the next columns.
    """
    row_tiles = tl.cdiv(num_rows, BLOCK_M)
    column_tiles = tl.cdiv(num_columns, BLOCK_N)
    tile = tl.program_id(0)
    first_row = tile // (GROUP * column_tiles) * GROUP
    height = min(row_tiles - first_row, GROUP)
    within = tile % (GROUP * column_tiles)
    rows = (first_row + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = (within // height) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_inside = rows < num_rows
    column_inside = columns < num_columns
    inside = row_inside[:, None] & column_inside[None, :]
    rows = rows.to(tl.int64)
    columns = columns.to(tl.int64)
    sources = tl.load(row_index + rows, row_inside, 0) if HAS_INDEX else rows
    if APART:
        part = tl.program_id(1)
        begin = part * part_depth
        y, z = _accumulate(x, gate, up, sources, columns, row_inside, column_inside, begin,
                           min(begin + part_depth, depth), depth, x_row, gate_row, gate_column,
                           up_row, up_column, PAIR, BLOCK_M, BLOCK_N, BLOCK_K)  # fmt: skip
        width = num_columns.to(tl.int64) * (2 if PAIR else 1)
        parts += part * num_rows * width + rows[:, None] * width + columns[None, :]
        tl.store(parts, y, inside)
        if PAIR:
            tl.store(parts + num_columns, z, inside)
    else:
        if ONE_PART:
            y, z = _accumulate(x, gate, up, sources, columns, row_inside, column_inside, 0, depth,
                               depth, x_row, gate_row, gate_column, up_row, up_column, PAIR,
                               BLOCK_M, BLOCK_N, BLOCK_K)  # fmt: skip
        else:
            y = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for begin in range(0, depth, part_depth):
                more, more_z = _accumulate(x, gate, up, sources, columns, row_inside,
                                           column_inside, begin, min(begin + part_depth, depth),
                                           depth, x_row, gate_row, gate_column, up_row, up_column,
                                           PAIR, BLOCK_M, BLOCK_N, BLOCK_K)  # fmt: skip
                y += more
                z += more_z
        _finish(y, z, bias, residual, out, rows, columns, inside, num_columns, residual_row,
                out_row, PAIR, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)  # fmt: skip


@triton.jit
def _reduce(
    parts,
    bias,
    residual,
    out,
    num_parts,
    num_rows,
    num_columns,
    residual_row,
    out_row,
    PAIR: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Adds the parts in order, from zero as the loop of `_linear` does, and finishes."""
    rows = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    columns = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    width = num_columns.to(tl.int64) * (2 if PAIR else 1)
    at = parts + rows[:, None] * width + columns[None, :]
    y = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for _ in range(num_parts):
        y += tl.load(at, inside, 0.0)
        if PAIR:
            z += tl.load(at + num_columns, inside, 0.0)
        at += num_rows * width
    _finish(y, z, bias, residual, out, rows, columns, inside, num_columns, residual_row, out_row,
            PAIR, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)  # fmt: skip
