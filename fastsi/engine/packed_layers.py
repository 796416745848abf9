"""Packed copies of the model's linear layers: caches of its Parameters, never their replacement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fastsi import _ext, ops
from fastsi.ops import PackedWeight

Stamp = tuple[object, ...]
"""Changes whenever the values of a parameter do."""
Stamper = Callable[[torch.Tensor], Stamp]


_ON_GPU = (torch.float32, torch.bfloat16, torch.float16)


def refusal(module: nn.Module, mode: str = "fp32") -> str | None:
    """Why the op `linear` cannot stand in for this linear layer, or None if it can."""
    if type(module) not in (nn.Linear, Conv1D):
        return f"{type(module).__name__} is no plain linear layer"
    weight = module.weight
    name, where = str(weight.dtype).removeprefix("torch."), weight.device.type
    if where == "cuda":
        if mode != "fp32":
            return f"mode {mode!r} runs on a CPU, its weights are on {weight.device}"
        return None if weight.dtype in _ON_GPU else f"its weights are {name}"
    if where != "cpu":
        return f"its weights are on {weight.device}"
    if weight.dtype != torch.float32:
        return f"its weights are {name}, not float32"
    if _ext.load("_C")[0] is None:
        return _ext.load("_C")[1]
    return None


def weight_of(layer: nn.Module) -> torch.Tensor:
    """[out, in], whichever way round the layer stores it."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    return weight.t() if isinstance(layer, Conv1D) else weight


class PackedLayers:
    """The product of one or more layers that read the same rows, side by side.

    ``refresh`` packs the weights again if a parameter has changed since; nothing else notices.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        mode: str,
        *,
        pair: bool = False,
        deterministic: bool = False,
    ) -> None:
        """Pack nothing yet.

        Args:
            layers: linear layers of one input.
            mode: arithmetic, see `ops.pack_weight`.
            pair: they are a gate and what it multiplies.
            deterministic: a row's bits must not depend on the number of rows. On a CPU they never
                do; on a GPU cuBLAS chooses kernels by it, and one kernel of ours serves.
        """
        self.layers, self.mode, self.pair = tuple(layers), mode, pair
        on_gpu = weight_of(layers[0]).is_cuda
        self._backend = "triton" if deterministic and on_gpu else "auto"
        self._packed: PackedWeight | None = None
        self._bias: torch.Tensor | None = None
        self._stamp: Stamp | None = None

    @property
    def out_features(self) -> int:
        """Columns of the result."""
        total = sum(weight_of(layer).shape[0] for layer in self.layers)
        return total // 2 if self.pair else total

    @property
    def packed(self) -> tuple[PackedWeight, torch.Tensor | None]:
        """Weights and bias as last packed."""
        assert self._packed is not None, "used before `refresh`"
        return self._packed, self._bias

    @property
    def nbytes(self) -> int:
        """Bytes of the packed copy."""
        return 0 if self._packed is None else self._packed.nbytes

    def refresh(self, stamp: Stamper) -> bool:
        """Pack if the parameters are not those that were packed; returns whether it did."""
        parameters = [p for layer in self.layers for p in layer.parameters(recurse=False)]
        on_cpu = parameters[0].device.type == "cpu"  # where the layout is the instruction set's
        now = (_ext.core().isa() if on_cpu else None, *map(stamp, parameters))
        if now == self._stamp:
            return False
        self._packed = None  # first, so that the old copy does not stand beside the new one
        self._packed = ops.pack_weight(
            [weight_of(layer) for layer in self.layers],
            mode=self.mode,
            pair=self.pair,
        )
        self._bias = self._joined_bias()
        self._stamp = now
        return True

    def _joined_bias(self) -> torch.Tensor | None:
        parts: list[torch.Tensor] = []
        for layer in self.layers:
            bias: Any = layer.bias
            weight = weight_of(layer)
            parts.append(weight.new_zeros(len(weight)) if bias is None else bias.detach())
        return None if all(layer.bias is None for layer in self.layers) else torch.cat(parts)

    def __call__(
        self,
        x: torch.Tensor,
        *,
        residual: torch.Tensor | None = None,
        activation: str | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `fastsi.ops.linear`; x [R, in]."""
        packed, bias = self.packed
        more: dict[str, Any] = {} if self._backend == "auto" else {"backend": self._backend}
        return ops.linear(
            x, packed, bias=bias, residual=residual, activation=activation, out=out, **more
        )

    def plain(
        self,
        x: torch.Tensor,
        *,
        residual: torch.Tensor | None = None,
        activation: str | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The same by the layers themselves, for a check of how they are put together."""
        y = [layer(x) for layer in self.layers]
        if self.pair:
            y = [ops.act_mul(y[0], y[1], activation)]  # type: ignore[arg-type]
        joined = torch.cat(y, dim=-1)
        joined = joined if residual is None else joined + residual
        return joined if out is None else out.copy_(joined)
