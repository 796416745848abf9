"""Triton backend of `merge_states`: one program per (row, head), and all its partial results."""

# Arguments of kernels are values on the device, without Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from fastsi.ops._triton_variants import Variant
from fastsi.ops._view import rows_dense

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
PAIRS = 4
"""(row, head) pairs per program: enough bytes in flight at head_dim 64."""


@triton.jit
def merge_pairs(
    outs,
    lses,
    out,
    lse,
    parts,
    pairs,
    heads,
    outs_part_stride,
    outs_row_stride,
    outs_head_stride,
    lses_part_stride,
    lses_row_stride,
    lses_head_stride,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Grid [pairs / PAIRS]: the sum of weights, then the mean, whose terms cannot overflow."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    valid = pair < pairs
    row, head = (pair // heads).to(tl.int64), pair % heads
    d = tl.arange(0, BLOCK_D)
    held = valid[:, None] & (d[None, :] < HEAD_DIM)
    values = outs + (row * outs_row_stride + head * outs_head_stride)[:, None] + d[None, :]
    sums = lses + row * lses_row_stride + head * lses_head_stride
    largest = tl.full([PAIRS], float("-inf"), tl.float32)
    total = tl.zeros([PAIRS], tl.float32)
    for part in tl.range(0, parts, num_stages=3):
        at = tl.cast(part, tl.int64)
        found = tl.load(sums + at * lses_part_stride, mask=valid, other=float("-inf"))
        above = tl.maximum(largest, found)
        base = tl.where(above == float("-inf"), 0.0, above)
        # Differences first: they are exact where it matters, and equal log-sums weigh exactly 1.
        total = total * tl.exp2((largest - base) * LOG2_E) + tl.exp2((found - base) * LOG2_E)
        largest = above
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    base = tl.where(empty, 0.0, largest)
    acc = tl.zeros([PAIRS, BLOCK_D], tl.float32)
    for part in tl.range(0, parts, num_stages=3):
        at = tl.cast(part, tl.int64)
        found = tl.load(sums + at * lses_part_stride, mask=valid, other=float("-inf"))
        value = tl.load(values + at * outs_part_stride, mask=held, other=0.0).to(tl.float32)
        acc += value * (tl.exp2((found - base) * LOG2_E) / divisor)[:, None]
    at = pair.to(tl.int64)[:, None] * HEAD_DIM + d[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=held)
    merged = tl.where(empty, float("-inf"), largest + tl.log2(divisor) * LN_2)
    tl.store(lse + pair, merged, mask=valid)


def merge_states(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fastsi.ops.merge_states`."""
    outs = rows_dense(outs)
    parts, rows, heads, head_dim = outs.shape
    out = torch.empty(outs.shape[1:], dtype=outs.dtype, device=outs.device)
    lse = torch.empty(lses.shape[1:], dtype=lses.dtype, device=outs.device)
    pairs = rows * heads
    if pairs and head_dim:
        merge_pairs[(triton.cdiv(pairs, PAIRS),)](
            outs,
            lses,
            out,
            lse,
            parts,
            pairs,
            heads,
            *outs.stride()[:3],
            *lses.stride(),
            HEAD_DIM=head_dim,
            BLOCK_D=triton.next_power_of_2(head_dim),
            PAIRS=PAIRS,
            num_warps=1,
        )
    return out, lse


def _variant(dtype: str, head_dim: int) -> Variant:
    pointers = {"outs": f"*{dtype}", "lses": "*fp32", "out": f"*{dtype}", "lse": "*fp32"}
    integers = ("parts", "pairs", "heads")
    strides = tuple(
        f"{name}_{axis}_stride" for name in ("outs", "lses") for axis in ("part", "row", "head")
    )
    constants: dict[str, Any] = {"HEAD_DIM": head_dim, "BLOCK_D": head_dim, "PAIRS": PAIRS}
    return Variant(
        name=f"merge_pairs-{head_dim}-{dtype}",
        kernel=merge_pairs,
        signature=pointers
        | dict.fromkeys((*integers, *strides), "i32")
        | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        divisible=(*pointers, *strides[:3]),
        num_warps=1,
    )


VARIANTS: Sequence[Variant] = tuple(
    _variant(dtype, head_dim) for dtype in ("bf16", "fp16", "fp32") for head_dim in (64, 128)
)
