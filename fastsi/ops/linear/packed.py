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
from fastsi.errors import ConfigError
from fastsi.ops import _checks
from fastsi.ops._memory import side_by_side
from fastsi.ops.linear import int8
from fastsi.types import check_known

MODES = ("fp32", "bf16", "int8")
_JOIN_BYTES = 1 << 26
"""Weights up to this size are copied side by side on a GPU: the product takes some 20 us at 3 TB/s,
so another launch and a last, half-filled wave of blocks count; of larger ones the copy would cost
more memory than the time is worth."""
_STORED = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Types of weights in panels or rows."""
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
    """"panelW": panels of W columns, [panels, k, W], on AMX without trailing bytes that are 0 in
    all weights, as in csrc/cpu/linear_short_weights.h; "bf16_panelW": [panels, k / 2, W, 2], two
    inputs of a column side by side; "int8_panel16" or, for AVX2 without VNNI,
    "int8_panel16_steps": as in csrc/cpu/linear_int8.h; "rows", without the extension: [n, k], in
    mode "int8" with k filled up to 64; "own": the weights as they are, in ``weights``."""
    data: torch.Tensor
    """uint8 [bytes], 64-byte aligned: the weights in this layout; empty in layout "own"."""
    weights: tuple[torch.Tensor, ...] = ()
    """In layout "own" the weights given, or one [n, k] of all of them."""
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
        """Bytes of memory held, the given weights themselves not counted."""
        joined = self.weights[0].nbytes if 0 < len(self.weights) < len(self.splits) else 0
        held = joined if self.layout == "own" else self.data.nbytes
        return held + (0 if self.scales is None else self.scales.nbytes)

    def own(self, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """The weights of layout "own": one of all features, or as many as were given.

        Raises:
            ValueError: another layout, or another dtype.
        """
        if self.layout != "own":
            raise ValueError(f"packed: layout is {self.layout!r}; pack with keep=True for this")
        if self.weights[0].dtype != dtype:
            raise ValueError(f"x: dtype is {dtype}, the weights are {self.weights[0].dtype}")
        return self.weights

    def unpack(self) -> list[torch.Tensor]:
        """The weights [N_i, K] as float32, with the values that `linear` computes with.

        In mode "fp32" these are exactly the values packed; in mode "bf16" those rounded to
        bfloat16; in mode "int8" those that integers and scales stand for.

        Raises:
            ValueError: the instruction set in force does not read this layout.
        """
        if self.layout == "own" and len(self.weights) == len(self.splits):
            return [weight.to(torch.float32, copy=True) for weight in self.weights]
        if self.layout == "own":
            whole = self.weights[0].float()
        elif self.mode == "int8":
            whole = int8.dequantised(*self.integers(), self.k)
        elif self.layout == "rows":
            whole = self.data.view(_STORED[self.mode]).view(self.n, self.k).float()
        else:
            return _unpack_panels(self)
        ends = list(itertools.accumulate(self.splits, initial=0))
        return [whole[a:b].clone() for a, b in itertools.pairwise(ends)]

    def integers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mode "int8": rotated values int8 [n, k filled up to 64] and scales float32 [n].

        In layout "int8_panel16_steps" scales are [n, steps], one for every 64 inputs.
        """
        if self.scales is not None:
            return self.data.view(torch.int8).view(self.n, -1), self.scales
        return int8.unpack_panels(self.layout, self.data, self.n, self.k, self.pair)


def pack_weight(
    weights: Sequence[torch.Tensor],
    *,
    mode: str = "fp32",
    pair: bool = False,
    keep: bool | None = None,
) -> PackedWeight:
    """Bring weights into the layout that `linear` reads fastest where they are.

    On a CPU that is a copy. On a GPU one weight is kept as it is, by reference; several small ones
    are copied side by side, since one product is faster than several.

    Args:
        weights: [N_i, K] each, on one device, any strides: several layers of one input, side by
            side (query, key and value, say). On a CPU float32, or a type that float32 holds
            exactly; on a GPU of one type, that of the rows.
        mode: "fp32", the arithmetic of the weights' type. On a CPU also "bf16": weights and the
            rows of each call are rounded to bfloat16, half the memory, twice as fast where the
            CPU multiplies it; or "int8": they are rounded to 8 bits or 7, a quarter of the memory
            and faster still (`fastsi.ops.linear.int8`).
        pair: the weights are two of one shape, gate and up; see `linear`.
        keep: use the layout of GPUs; None: where the weights are on one.

    Raises:
        ConfigError: no such mode, or not on this device.
        ValueError: shapes, dtypes or devices do not fit.
    """
    check_known([mode], MODES, "mode")
    if weights and (weights[0].device.type != "cpu" if keep is None else keep):
        return _keep(weights, mode, pair)
    _check(weights, pair)
    with torch.no_grad():
        stored = _STORED.get(mode, torch.float32)
        plain = [weight.detach().to(stored).contiguous() for weight in weights]
        if _ext.load("_C")[0] is not None:
            return _PACKERS[mode](plain, mode, pair)
        if mode == "int8":
            data, scales = int8.pack_rows(plain)
            return PackedWeight(
                **common(plain, mode, pair), layout="rows", data=data, scales=scales
            )
        data = side_by_side(sum(weight.nbytes for weight in plain))
        data.view(stored).copy_(torch.cat([weight.flatten() for weight in plain]))
    return PackedWeight(**common(plain, mode, pair), layout="rows", data=data)


def _keep(weights: Sequence[torch.Tensor], mode: str, pair: bool) -> PackedWeight:
    """Layout "own"."""
    if mode != "fp32":
        raise ConfigError(f"mode={mode!r}: runs on a CPU, the weights are on {weights[0].device}")
    first = weights[0]
    for i, weight in enumerate(weights):
        _checks.require_shape(f"weights[{i}]", weight, (None, first.shape[-1]))
        _checks.require_device(f"weights[{i}]", weight, first.device)
        _checks.require_dtype(f"weights[{i}]", weight, first.dtype)
        _checks.require_float(f"weights[{i}]", weight)
    _check_pair(weights, pair)
    held = tuple(weight.detach() for weight in weights)
    if len(held) > 1 and sum(weight.nbytes for weight in held) <= _JOIN_BYTES:
        held = (torch.cat(held),)
    return PackedWeight(
        **common(weights, mode, pair),
        layout="own",
        data=torch.empty(0, dtype=torch.uint8),
        weights=held,
    )


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
    _check_pair(weights, pair)


def _check_pair(weights: Sequence[torch.Tensor], pair: bool) -> None:
    if pair and (len(weights) != 2 or weights[0].shape != weights[1].shape):
        shapes = [list(weight.shape) for weight in weights]
        raise ValueError(f"weights: shapes are {shapes}, a pair needs two of one shape")


def _pack_panels(weights: Sequence[torch.Tensor], mode: str, pair: bool) -> PackedWeight:
    from fastsi.ops._view import view

    core = _ext.core()
    fields = common(weights, mode, pair)
    n, k, bf16 = fields["n"], fields["k"], mode == "bf16"
    stored, threads = _STORED[mode], torch.get_num_threads()
    # Of weights from a bfloat16 checkpoint two bytes are 0, which AMX neither reads nor multiplies.
    kept = 2 if bf16 else max(core.linear_bytes(view(weight), threads) for weight in weights)
    shape = core.linear_packed_shape(n, k, pair, bf16, kept)
    data = side_by_side(stored.itemsize * math.prod(shape))
    handle = core.LinearWeights(view(data.view(stored).view(shape)), n, k, pair, kept)
    first = 0
    for weight in weights:
        core.linear_pack(view(weight), handle, first, threads)
        first += weight.shape[0]
    layout = f"bf16_panel{shape[2] // 2}" if bf16 else f"panel{shape[2]}"
    return PackedWeight(**fields, layout=layout, data=data, handle=handle)


def _pack_int8(weights: Sequence[torch.Tensor], mode: str, pair: bool) -> PackedWeight:
    layout, data, handle = int8.pack_panels(weights, pair)
    fields = common(weights, mode, pair)
    return PackedWeight(**fields, layout=layout, data=data, handle=handle)


def _unpack_panels(packed: PackedWeight) -> list[torch.Tensor]:
    from fastsi.ops._view import view

    found, first = [], 0
    for count in packed.splits:
        weight = torch.empty(count, packed.k, dtype=_STORED[packed.mode])
        _ext.core().linear_unpack(packed.handle, first, view(weight), torch.get_num_threads())
        found.append(weight.float())
        first += count
    return found


_PACKERS: dict[str, Callable[[Sequence[torch.Tensor], str, bool], PackedWeight]] = {
    "fp32": _pack_panels,
    "bf16": _pack_panels,
    "int8": _pack_int8,
}
