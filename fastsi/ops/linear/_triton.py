"""Triton backend of `linear`: tiles of one shape, sums of one order, for any number of rows.

A row's bits depend on the row and the weights alone: every product runs in tiles of `_TILE`, and K
is cut into `splits(n, k)` parts, each summed from its first element to its last, whose sums are
added in order. Where tiles are few, the parts are given to programs of their own and a second
launch adds them; where rows are many, one program goes through all parts. Multiplications and
additions that follow are not fused, so both ways give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from fastsi.ops._launch import on_device, rows_dense
from fastsi.ops._triton_variants import Variant
from fastsi.ops.linear._triton_kernels import _linear, _reduce
from fastsi.ops.linear.packed import PackedWeight


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program computes, and with what."""

    rows: int
    columns: int
    """Output features, of gate and up together for a pair."""
    depth: int
    """Elements of K per step."""
    num_warps: int
    num_stages: int


_NARROW = Tile(128, 128, 64, 8, 3)
"""Two blocks per multiprocessor; intensity of 64 operations per byte out of L2."""
_FLOAT32 = Tile(64, 64, 16, 4, 3)
"""Multiplied in float32, without tensor cores."""
_TILE = {torch.float32: _FLOAT32, torch.bfloat16: _NARROW, torch.float16: _NARROW}
_ENOUGH_TILES = 64
"""Tiles of columns from which K is not cut."""
_LEAST_DEPTH = 512
"""Elements of K that a part must have; shorter ones are mostly start and end."""
_MANY_TILES = 512
"""Tiles of rows and columns from which one program goes through all parts of K."""
_GROUP = 16
"""Tiles of rows that share the columns they read while those are in L2."""
_REDUCE = (8, 128)


def splits(n: int, k: int, tile: Tile) -> int:
    """Parts of K, by the shape of the weights alone."""
    wanted = -(-_ENOUGH_TILES // max(1, -(-n // tile.columns)))
    return max(1, min(wanted, k // _LEAST_DEPTH))


def linear(
    x: torch.Tensor,
    packed: PackedWeight,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str | None,
    row_index: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """See `fastsi.ops.linear`. Rows that ``row_index`` names must exist."""
    weights = packed.own(x.dtype)
    rows = x.shape[0] if row_index is None else row_index.shape[0]
    if out is None:
        out = x.new_empty(rows, packed.out_features)
    if packed.pair or len(weights) == 1:
        gate, up = weights if len(weights) == 2 else _halves(weights[0], packed.pair)
        return product(x, gate, up, bias, residual, activation, row_index, out)
    first = 0
    for weight in weights:
        columns = slice(first, first + weight.shape[0])
        product(
            x,
            weight,
            None,
            None if bias is None else bias[columns],
            None if residual is None else residual[:, columns],
            activation,
            row_index,
            out[:, columns],
        )
        first = columns.stop
    return out


def _halves(weight: torch.Tensor, pair: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    if not pair:
        return weight, None
    half = weight.shape[0] // 2
    return weight[:half], weight[half:]


def product(
    x: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str | None,
    row_index: torch.Tensor | None,
    out: torch.Tensor,
    *,
    num_parts: int | None = None,
    apart: bool | None = None,
) -> torch.Tensor:
    """One product, written to ``out``.

    Args:
        gate: [N, K], any strides; with ``up``, of the same shape, the two of a pair.
        num_parts: of K; None: `splits`.
        apart: give parts to programs of their own; None: where tiles are few. The bits are equal.
    """
    rows, (n, k) = out.shape[0], gate.shape
    if rows == 0 or n == 0:
        return out
    tile, pair = _TILE[x.dtype], up is not None
    columns = tile.columns // 2 if pair else tile.columns
    wanted = splits(2 * n if pair else n, k, tile) if num_parts is None else num_parts
    part_depth = triton.cdiv(triton.cdiv(max(k, 1), wanted), tile.depth) * tile.depth
    count = triton.cdiv(max(k, 1), part_depth)
    tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(n, columns)
    if apart is None:
        apart = count > 1 and tiles < _MANY_TILES
    x = rows_dense(x)
    up = gate if up is None else up
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else rows_dense(residual)
    parts = out
    if apart:
        shape = (count, rows, 2 * n if pair else n)
        parts = torch.empty(shape, dtype=torch.float32, device=x.device)
    flags = {
        "PAIR": pair,
        "HAS_BIAS": bias is not None,
        "HAS_RESIDUAL": residual is not None,
        "ACTIVATION": activation or "none",
    }
    after = (x if bias is None else bias, x if residual is None else residual)
    steps = (0 if residual is None else residual.stride(0), out.stride(0))
    with on_device(x):
        _linear[(tiles, count if apart else 1)](
            x,
            gate,
            up,
            *after,
            x if row_index is None else row_index.contiguous(),
            out,
            parts,
            rows,
            n,
            k,
            part_depth,
            x.stride(0),
            *gate.stride(),
            *up.stride(),
            *steps,
            **flags,
            HAS_INDEX=row_index is not None,
            APART=apart,
            ONE_PART=count == 1,
            BLOCK_M=tile.rows,
            BLOCK_N=columns,
            BLOCK_K=tile.depth,
            GROUP=_GROUP,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=False,
        )
        if apart:
            grid = (triton.cdiv(rows, _REDUCE[0]), triton.cdiv(n, _REDUCE[1]))
            _reduce[grid](
                parts,
                *after,
                out,
                count,
                rows,
                n,
                *steps,
                **flags,
                BLOCK_M=_REDUCE[0],
                BLOCK_N=_REDUCE[1],
                num_warps=4,
                enable_fp_fusion=False,
            )
    return out


def _variant(
    kind: str, *, pair: bool = False, apart: bool = False, one: bool = True, bias: bool = False
) -> Variant:
    tile = _FLOAT32 if kind == "fp32" else _NARROW
    pointers = dict.fromkeys(("x", "gate", "up", "bias", "residual"), f"*{kind}")
    pointers |= dict.fromkeys(("row_index", "out"), f"*{kind}")
    pointers |= {"parts": "*fp32" if apart else f"*{kind}"}
    sizes = ("num_rows", "num_columns", "depth", "part_depth")
    steps = ("x_row", "gate_row", "up_row", "residual_row", "out_row")
    constants = {
        "gate_column": 1,
        "up_column": 1,
        "PAIR": pair,
        "HAS_BIAS": bias,
        "HAS_RESIDUAL": not pair,
        "HAS_INDEX": False,
        "ACTIVATION": "silu" if pair else "none",
        "APART": apart,
        "ONE_PART": one,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns // (2 if pair else 1),
        "BLOCK_K": tile.depth,
        "GROUP": _GROUP,
    }
    signature = pointers | dict.fromkeys(sizes + steps, "i32")
    signature |= dict.fromkeys(constants, "constexpr")
    flags = {"pair": pair, "apart": apart, "parts": not one, "bias": bias}
    return Variant(
        name=" ".join([kind, *(word for word, said in flags.items() if said)]),
        kernel=_linear,
        signature={name: signature[name] for name in _linear.arg_names},
        constants=constants,
        divisible=(*pointers, *sizes[1:], *steps),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def _reduce_variant(pair: bool) -> Variant:
    pointers = {"parts": "*fp32"} | dict.fromkeys(("bias", "residual", "out"), "*bf16")
    sizes = ("num_parts", "num_rows", "num_columns", "residual_row", "out_row")
    constants = {
        "PAIR": pair,
        "HAS_BIAS": False,
        "HAS_RESIDUAL": not pair,
        "ACTIVATION": "silu" if pair else "none",
        "BLOCK_M": _REDUCE[0],
        "BLOCK_N": _REDUCE[1],
    }
    signature = pointers | dict.fromkeys(sizes, "i32") | dict.fromkeys(constants, "constexpr")
    return Variant(
        name=f"reduce{' pair' if pair else ''}",
        kernel=_reduce,
        signature=signature,
        constants=constants,
        divisible=(*pointers, *sizes[2:]),
    )


VARIANTS = (
    _variant("bf16"),
    _variant("bf16", apart=True, one=False),
    _variant("bf16", one=False),
    _variant("bf16", bias=True),
    _variant("bf16", pair=True),
    _variant("bf16", pair=True, apart=True, one=False),
    _variant("fp16"),
    _variant("fp32"),
    _variant("fp32", pair=True),
    _reduce_variant(False),
    _reduce_variant(True),
)
"""Specialisations of layers whose sizes are multiples of 16: K whole, in parts apart, in parts one
after the other; with a bias (Qwen); as a pair."""
