"""Weights of a linear layer in the layout that the kernels read: made once, used at every step."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastsi import _ext
from fastsi.ops import _checks
from fastsi.ops._memory import aligned
from fastsi.ops.linear import int8
from fastsi.types import check_known

MODES = ("fp32", "int8")
_EXACT = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedWeight:
    """One or several weights [N_i, K] laid side by side along N; made by `pack_weight`.

    The layout depends on the instruction set in force when it was made. A weight can only be used
    with an instruction set that reads its layout; others refuse it.
    """

    n: int
    """Output features of all weights together."""
    k: int
    """Input features."""
    mode: str
    """Arithmetic, one of `MODES`."""
    splits: tuple[int, ...]
    """Output features of each weight; they add up to n."""
    pair: bool
    """Two equal weights (gate, up): `linear` gives activation(gate) * up, n / 2 features."""
    layout: str
    """"panelW": panels of W columns, [panels, k, W]; "int8_panel16" or, for AVX2 without VNNI,
    "int8_panel16_steps": as in csrc/cpu/linear_int8.h; "rows", without the extension: [n, k], in
    mode "int8" with k filled up to 64."""
    data: torch.Tensor
    """uint8 [bytes], 64-byte aligned: the weights in this layout."""
    scales: torch.Tensor | None = None
    """float32 [n], factor of each output feature, in mode "int8" and layout "rows"."""
    handle: Any = dataclasses.field(default=None, repr=False)
    """What the extension reads; refers to ``data``."""

    @property
    def out_features(self) -> int:
        """Columns of `linear`'s result."""
        return self.n // 2 if self.pair else self.n

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def unpack(self) -> list[torch.Tensor]:
        """The weights [N_i, K] as float32, with the values that `linear` computes with.

        In mode "fp32" these are exactly the values packed; in mode "int8" those that integers and
        scales stand for.

        Raises:
            ValueError: the instruction set in force does not read this layout.
        """
        if self.mode == "int8":
            whole = int8.dequantised(*self.integers(), self.k)
        elif self.layout == "rows":
            whole = self.data.view(torch.float32).view(self.n, self.k)
        else:
            return _unpack_fp32(self)
        ends = list(itertools.accumulate(self.splits, initial=0))
        return [whole[a:b].clone() for a, b in itertools.pairwise(ends)]

    def integers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mode "int8": rotated values int8 [n, k filled up to 64] and scales float32 [n]."""
        if self.scales is not None:
            return self.data.view(torch.int8).view(self.n, -1), self.scales
        return int8.unpack_panels(self.layout, self.data, self.n, self.k, self.pair)


def pack_weight(
    weights: Sequence[torch.Tensor], *, mode: str = "fp32", pair: bool = False
) -> PackedWeight:
    """Copy weights into the layout that `linear` reads fastest on this machine.

    Args:
        weights: [N_i, K] each, on the CPU, any strides: several layers of one input, side by side
            (query, key and value, say). float32, or a type that float32 holds exactly.
        mode: "fp32"; or "int8", a quarter of the memory and faster, where weights and the rows of
            each call are rounded to 8 bits or 7 (`fastsi.ops.linear.int8`).
        pair: the weights are two of one shape, gate and up; see `linear`.

    Raises:
        ConfigError: no such mode.
        ValueError: shapes, dtypes or devices do not fit.
    """
    check_known([mode], MODES, "mode")
    _check(weights, pair)
    with torch.no_grad():
        plain = [weight.detach().to(torch.float32).contiguous() for weight in weights]
        if _ext.load("_C")[0] is not None:
            return _PACKERS[mode](plain, pair)
        if mode == "int8":
            data, scales = int8.pack_rows(plain)
            return PackedWeight(
                **common(plain, mode, pair), layout="rows", data=data, scales=scales
            )
        data = aligned(4 * sum(weight.numel() for weight in plain))
        data.view(torch.float32).copy_(torch.cat([weight.flatten() for weight in plain]))
    return PackedWeight(**common(plain, mode, pair), layout="rows", data=data)


def common(weights: Sequence[torch.Tensor], mode: str, pair: bool) -> dict[str, Any]:
    """The fields of a `PackedWeight` that every layout shares."""
    splits = tuple(weight.shape[0] for weight in weights)
    return {
        "n": sum(splits),
        "k": weights[0].shape[1],
        "mode": mode,
        "splits": splits,
        "pair": pair,
    }


def _check(weights: Sequence[torch.Tensor], pair: bool) -> None:
    if not weights:
        raise ValueError("weights: is empty, must hold at least one weight")
    for i, weight in enumerate(weights):
        name = f"weights[{i}]"
        _checks.require_device(name, weight, torch.device("cpu"))
        _checks.require_shape(name, weight, (None, weights[0].shape[-1]))
        if weight.dtype not in _EXACT:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _EXACT)
            raise ValueError(f"{name}: dtype is {weight.dtype}, must be one of {allowed}")
    if pair and (len(weights) != 2 or weights[0].shape != weights[1].shape):
        shapes = [list(weight.shape) for weight in weights]
        raise ValueError(f"weights: shapes are {shapes}, a pair needs two of one shape")


def _pack_fp32(weights: Sequence[torch.Tensor], pair: bool) -> PackedWeight:
    from fastsi.ops._view import view

    core = _ext.core()
    fields = common(weights, "fp32", pair)
    n, k = fields["n"], fields["k"]
    shape = core.linear_packed_shape(n, k, pair)
    data, threads = aligned(4 * math.prod(shape)), torch.get_num_threads()
    # Weights of a bfloat16 checkpoint take half the products of arbitrary float32 ones.
    parts = max(core.linear_parts(view(weight), threads) for weight in weights)
    handle = core.LinearWeights(view(data.view(torch.float32).view(shape)), n, k, pair, parts)
    first = 0
    for weight in weights:
        core.linear_pack(view(weight), handle, first, threads)
        first += weight.shape[0]
    return PackedWeight(**fields, layout=f"panel{shape[2]}", data=data, handle=handle)


def _pack_int8(weights: Sequence[torch.Tensor], pair: bool) -> PackedWeight:
    layout, data, handle = int8.pack_panels(weights, pair)
    fields = common(weights, "int8", pair)
    return PackedWeight(**fields, layout=layout, data=data, handle=handle)


def _unpack_fp32(packed: PackedWeight) -> list[torch.Tensor]:
    from fastsi.ops._view import view

    found, first = [], 0
    for count in packed.splits:
        weight = torch.empty(count, packed.k)
        _ext.core().linear_unpack(packed.handle, first, view(weight), torch.get_num_threads())
        found.append(weight)
        first += count
    return found


_PACKERS: dict[str, Callable[[Sequence[torch.Tensor], bool], PackedWeight]] = {
    "fp32": _pack_fp32,
    "int8": _pack_int8,
}
