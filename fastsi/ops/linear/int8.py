"""Weights in int8: how weights and rows are quantised, and the product, defined in plain torch.

Every 64 consecutive inputs are rotated by a Hadamard matrix H (unnormalised, H @ H.T = 64 I), in
the weights once and in the rows of each call: W @ x = (W @ H) @ (H.T @ x) / 64. One input far
larger than its neighbours, which language models have in every layer, then no longer decides the
grain of its whole row (QuaRot, arXiv 2404.00456; here the model stays as it is).
Weights have one scale per output feature, rows one scale each, found at every call; sums are exact
integers, so only the roundings to int8 lose anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastsi import _ext

BLOCK = 64
"""Inputs that are rotated together."""
PANEL = 16
"""Output features of a panel of the packed layout."""
_LEAST = 2.0**-120


def rotate(x: torch.Tensor) -> torch.Tensor:
    """H.T @ x for every 64 inputs: float32 [rows, k] to [rows, k filled up to 64].

    The order of additions (strides 32, 16, ..., 1) is part of the definition: it gives the same
    bits as the kernels.
    """
    rows, depth = x.shape[0], x.shape[1] + -x.shape[1] % BLOCK
    y = torch.nn.functional.pad(x, (0, -x.shape[1] % BLOCK))
    for stride in (32, 16, 8, 4, 2, 1):
        first, second = y.reshape(rows, depth // (2 * stride), 2, stride).unbind(2)
        y = torch.stack((first + second, first - second), dim=2)
    return y.reshape(rows, depth)


def quantise(x: torch.Tensor, factor: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated rows as integers and a scale each: rotate(x) is about values * scale * factor.

    Args:
        x: float32 [rows, k].
        factor: what the scale is divided by.

    Returns:
        Values int8 [rows, k filled up to 64], at most 127 in magnitude, rounded to nearest even;
        scale float32 [rows]. Rows whose largest rotated magnitude is below 2^-120 count as zeros;
        rows that are not finite have the scale NaN.
    """
    rotated = rotate(x)
    largest = rotated.abs().amax(dim=1) if x.shape[1] else rotated.new_zeros(x.shape[0])
    usable = largest.isfinite() & (largest >= _LEAST)
    safe = largest.where(usable, torch.ones_like(largest))
    inverse = torch.full_like(safe, 127.0) / safe  # not 127 / safe, which torch rounds twice
    values = rotated.where(usable[:, None], torch.zeros_like(rotated)) * inverse[:, None]
    scale = (safe / torch.full_like(safe, 127.0 * factor)).where(usable, torch.zeros_like(safe))
    scale = scale.where(largest.isfinite(), torch.full_like(safe, torch.nan))
    return values.round().to(torch.int8), scale


def product(
    x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x @ W.T + bias for quantised weights, computed in float32: the definition of mode "int8".

    Args:
        x: [rows, k].
        values, scales: int8 [n, k filled up to 64], float32 [n], from `quantise`.
    """
    rows, row_scale = quantise(x.to(torch.float32), float(BLOCK))
    sums = rows.double() @ values.double().T  # exact: below 2^53
    y = sums.float() * row_scale[:, None] * scales
    return (y if bias is None else y + bias.float()).to(x.dtype)


def dequantised(values: torch.Tensor, scales: torch.Tensor, k: int) -> torch.Tensor:
    """The weights [n, k], float32, that integers and scales stand for."""
    return (rotate(values.float() * scales[:, None]) / BLOCK)[:, :k].contiguous()


def pack_rows(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the extension: ``data`` uint8 and ``scales`` of layout "rows"."""
    values, scales = quantise(torch.cat(list(weights)))
    return values.flatten().view(torch.uint8), scales


def pack_panels(weights: Sequence[torch.Tensor], pair: bool) -> tuple[torch.Tensor, Any]:
    """With the extension: ``data`` of layout "int8_panel16", and the handle that kernels read."""
    from fastsi.ops._view import view
    from fastsi.ops.linear.packed import aligned

    core = _ext.core()
    n, k = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
    panels = core.linear_int8_panels(n, pair)
    columns, depth = PANEL * panels, -(-k // BLOCK) * BLOCK
    data = aligned(columns * (depth + 8))
    values, scales, sums = _parts(data, columns, depth)
    handle = core.LinearInt8Weights(view(values), view(scales), view(sums), n, k, pair)
    first = 0
    for weight in weights:
        core.linear_int8_pack(view(weight), handle, first, torch.get_num_threads())
        first += weight.shape[0]
    return data, handle


def unpack_panels(
    data: torch.Tensor, n: int, k: int, pair: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values int8 [n, k filled up to 64] and scales [n] out of layout "int8_panel16"."""
    depth = -(-k // BLOCK) * BLOCK
    columns = data.numel() // (depth + 8)
    values, scales, _ = _parts(data, columns, depth)
    panels = values.view(torch.int8).view(-1, depth // 4, PANEL, 4)
    plain = panels.permute(0, 2, 1, 3).reshape(columns, depth)
    if pair:
        gate_first = torch.arange(columns).view(-1, 2, PANEL).transpose(0, 1).reshape(2, -1)
        order = gate_first[:, : n // 2].flatten()
        return plain[order], scales[order]
    return plain[:n], scales[:n].clone()


def _parts(
    data: torch.Tensor, columns: int, depth: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bytes of the panels, scale of each column, 128 times the sum of each column."""
    end = columns * depth
    scales, sums = data[end : end + 4 * columns], data[end + 4 * columns :]
    return data[:end], scales.view(torch.float32), sums.view(torch.int32)
