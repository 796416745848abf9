"""Weights in int8: how weights and rows are quantised, and the product, defined in plain torch.

Every 64 consecutive inputs are rotated by a Hadamard matrix H (unnormalised, H @ H.T = 64 I), in
the weights once and in the rows of each call: W @ x = (W @ H) @ (H.T @ x) / 64. One input far
larger than its neighbours, which language models have in every layer, then no longer decides the
grain of its whole row (QuaRot, arXiv 2404.00456; here the model stays as it is).
Weights have 8 bits. Rows are rounded at every call, in one of two forms: 8 bits and one scale each,
with one scale per output feature; or, where bytes can only be multiplied fast if sums of four
products fit 16 bits (AVX2 without VNNI), 7 bits and, for rows and features, a scale for every 64
inputs (``step_scales``). Sums, of a row or of 64 inputs, are exact integers, so only the roundings
lose anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastsi import _ext
from fastsi.ops._int8 import hadamard, round_rows
from fastsi.ops._memory import side_by_side

BLOCK = 64
"""Inputs that are rotated together."""
PANEL = 16
"""Output features of a panel of the packed layout."""
ROW_SCALES, STEP_SCALES = "int8_panel16", "int8_panel16_steps"
"""Layouts with the extension, named after the form of the rows they are multiplied with."""
QUAD = 260
"""Step scales: largest sum of the positive or the negative ones of four weights whose products with
0 to 126 are added in 16 bits."""


def rotate(x: torch.Tensor) -> torch.Tensor:
    """H.T @ x for every 64 inputs: float32 [rows, k] to [rows, k filled up to 64].

    The order of additions is that of `hadamard`.
    """
    return hadamard(torch.nn.functional.pad(x, (0, -x.shape[1] % BLOCK)), BLOCK)


def largest_quads(rotated: torch.Tensor) -> torch.Tensor:
    """Largest sum of the positive or the negative ones of four: [rows, multiple of 8] to [rows].

    The four are i, i + 1, i + 4 and i + 5 for every i that is 0 or 2 modulo 8.
    """
    fours = rotated.view(len(rotated), -1, 2, 2, 2).transpose(2, 3)
    parts = torch.stack((fours, -fours)).clamp(min=0)
    pairs = parts[..., 0] + parts[..., 1]
    return (pairs[..., 0] + pairs[..., 1]).amax(dim=(0, 2, 3))


def quantise(
    x: torch.Tensor, factor: float = 1.0, levels: float = 127.0, *, quads: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated rows as integers and a scale each: rotate(x) is about values * scale * factor.

    Args:
        x: float32 [rows, k].
        factor: what the scale is divided by.
        levels: largest magnitude of an integer, up to 127.
        quads: the scale is also large enough for `largest_quads` of the values to be within QUAD.

    Returns:
        Values int8 [rows, k filled up to 64], rounded to nearest even; scale float32 [rows]. Rows
        whose largest rotated magnitude is below 2^-120 count as zeros;
        rows that are not finite have the scale NaN.
    """
    rotated = rotate(x)
    if not quads:
        return round_rows(rotated, levels, factor)
    # Rounding adds at most half of each of four integers.
    fours = largest_quads(rotated) * (levels / (QUAD - 2))
    largest = rotated.abs().amax(dim=1) if x.shape[1] else fours
    return round_rows(rotated, levels, factor, torch.where(fours > largest, fours, largest))


def quantise_steps(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [n, k] of the form with step scales: as `quantise`, but scale float32 [n, steps]."""
    parts = [quantise(part, quads=True) for part in torch.split(weight, BLOCK, dim=1)]
    values, scales = zip(*parts, strict=True)
    return torch.cat(values, dim=1), torch.stack(scales, dim=1)


def product(
    x: torch.Tensor,
    values: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    step_scales: bool,
) -> torch.Tensor:
    """x @ W.T + bias for quantised weights, computed in float32: the definition of mode "int8".

    Args:
        x: [rows, k].
        values, scales: int8 [n, k filled up to 64], float32 [n] from `quantise`, or with step
            scales [n, steps] from `quantise_steps`.
        bias: [n] or None.
        step_scales: the form, see above; the sums of steps are added in order.
    """
    wide = x.to(torch.float32)
    if step_scales:
        y = wide.new_zeros(x.shape[0], len(values))
        steps = zip(
            torch.split(wide, BLOCK, dim=1),
            torch.split(values.double(), BLOCK, dim=1),
            scales.unbind(1),
            strict=True,
        )
        for part, weights, own in steps:
            integers, scale = quantise(part, float(BLOCK), 63.0)
            y = y + (integers.double() @ weights.T).float() * (scale[:, None] * own)
    else:
        integers, scale = quantise(wide, float(BLOCK))
        y = (integers.double() @ values.double().T).float() * scale[:, None]  # exact: below 2^53
        y = y * scales
    return (y if bias is None else y + bias.float()).to(x.dtype)


def dequantised(values: torch.Tensor, scales: torch.Tensor, k: int) -> torch.Tensor:
    """The weights [n, k], float32, that integers and scales stand for."""
    steps = values.view(len(values), -1, BLOCK) * scales.view(len(values), -1, 1)
    return (rotate(steps.view(values.shape)) / BLOCK)[:, :k].contiguous()


def pack_rows(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the extension: ``data`` uint8 and ``scales`` of layout "rows"."""
    values, scales = quantise(torch.cat(list(weights)))
    return values.flatten().view(torch.uint8), scales


def pack_panels(weights: Sequence[torch.Tensor], pair: bool) -> tuple[str, torch.Tensor, Any]:
    """With the extension: the layout in force, ``data``, and the handle that kernels read."""
    from fastsi.ops._view import view

    core = _ext.core()
    n, k = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
    panels = core.linear_int8_panels(n, pair)
    columns, depth = PANEL * panels, -(-k // BLOCK) * BLOCK
    step_scales = core.linear_int8_step_scales()
    data = side_by_side(columns * _column_bytes(depth, step_scales))
    values, scales, sums = _parts(data, columns, depth)
    handle = core.LinearInt8Weights(view(values), view(scales), view(sums), n, k, pair, step_scales)
    first = 0
    for weight in weights:
        core.linear_int8_pack(view(weight), handle, first, torch.get_num_threads())
        first += weight.shape[0]
    return STEP_SCALES if step_scales else ROW_SCALES, data, handle


def unpack_panels(
    layout: str, data: torch.Tensor, n: int, k: int, pair: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values int8 [n, k filled up to 64] and scales [n] or [n, steps] out of a layout of panels."""
    depth = -(-k // BLOCK) * BLOCK
    columns = data.numel() // _column_bytes(depth, layout == STEP_SCALES)
    values, scales, _ = _parts(data, columns, depth)
    if layout == STEP_SCALES:
        scales = scales.view(-1, depth // BLOCK, PANEL).transpose(1, 2).reshape(columns, -1)
    panels = values.view(torch.int8).view(-1, depth // 4, PANEL, 4)
    plain = panels.permute(0, 2, 1, 3).reshape(columns, depth)
    if pair:
        gate_first = torch.arange(columns).view(-1, 2, PANEL).transpose(0, 1).reshape(2, -1)
        order = gate_first[:, : n // 2].flatten()
        return plain[order], scales[order]
    return plain[:n], scales[:n].clone()


def _column_bytes(depth: int, step_scales: bool) -> int:
    """Of a column's weights, its scales and its sums."""
    return depth + 8 * (depth // BLOCK if step_scales else 1)


def _parts(
    data: torch.Tensor, columns: int, depth: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bytes of the panels, scales and sums of each column (csrc/cpu/linear_int8.h)."""
    panels, rest = data[: columns * depth], data[columns * depth :]
    scales, sums = rest.chunk(2)
    return panels, scales.view(torch.float32), sums.view(torch.int32)
