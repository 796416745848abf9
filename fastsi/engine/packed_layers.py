"""Packed copies of the model's linear layers: caches of its Parameters, never their replacement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fastsi import _ext, ops
from fastsi.engine import released
from fastsi.engine.released import is_released
from fastsi.errors import ConfigError
from fastsi.ops import PackedWeight

Stamp = tuple[object, ...]
"""Changes whenever the values of a parameter do."""
Stamper = Callable[[torch.Tensor], Stamp]


_ON_GPU = (torch.float32, torch.bfloat16, torch.float16)
_ON_CPU = (torch.float32, torch.bfloat16)


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
    if weight.dtype not in _ON_CPU:
        return f"its weights are {name}, not float32 or bfloat16"
    if _ext.load("_C")[0] is None:
        return _ext.load("_C")[1]
    return None


def rows_dtype(weight: torch.Tensor) -> torch.dtype:
    """Of the rows that are multiplied with weights that are not refused.

    On a CPU what goes on between products is float32 whatever the weights are.
    """
    return weight.dtype if weight.is_cuda else torch.float32


def weight_of(layer: nn.Module) -> torch.Tensor:
    """[out, in], whichever way round the layer stores it."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    return weight.t() if isinstance(layer, Conv1D) else weight


def _num_outputs(layer: nn.Module) -> int:
    """Rows of `weight_of`, also where the weight is released."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    return weight.shape[1] if isinstance(layer, Conv1D) else weight.shape[0]


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
            mode: arithmetic, see `ops.pack_weight`; in place of "fp32" bfloat16 weights on a CPU
                get "bf16", which is exact for them and rounds rows as their own layer would.
            pair: they are a gate and what it multiplies.
            deterministic: a row's bits must not depend on the number of rows. On a CPU they never
                do; on a GPU cuBLAS chooses kernels by it, and one kernel of ours serves.
        """
        first = weight_of(layers[0])
        on_gpu = first.is_cuda
        self._narrow = all(weight_of(layer).dtype == torch.bfloat16 for layer in layers)
        if mode == "fp32" and self._narrow and not on_gpu:
            mode = "bf16"
        self.layers, self.mode, self.pair = tuple(layers), mode, pair
        self._rows = rows_dtype(first)
        self._backend = "triton" if deterministic and on_gpu else "auto"
        self._packed: PackedWeight | None = None
        self._bias: torch.Tensor | None = None
        self._stamp: Stamp | None = None
        self._released: tuple[nn.Parameter, ...] = ()

    @property
    def weights(self) -> tuple[nn.Parameter, ...]:
        """The layers' own, [out, in] or, of a Conv1D, [in, out]."""
        return tuple(layer.weight for layer in self.layers)  # type: ignore[misc]

    @property
    def out_features(self) -> int:
        """Columns of the result."""
        total = sum(map(_num_outputs, self.layers))
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

    def refresh(self, stamp: Stamper, release: Collection[int] = ()) -> bool:
        """Pack if the parameters are not those that were packed; returns whether it did.

        Args:
            stamp: changes with a parameter; not asked about released ones.
            release: ``id`` of parameters to give up once packed; all weights of a product or none.

        Raises:
            ConfigError: weights are released and would have to be packed again.
        """
        now = self._now(stamp)
        changed = now != self._stamp
        if changed:
            if self._released:
                self._check_still_valid(now)
            else:
                self._packed = None  # first, so that the old copy does not stand beside the new
                self._packed = ops.pack_weight(
                    [weight_of(layer) for layer in self.layers],
                    mode=self.mode,
                    pair=self.pair,
                )
            self._bias = self._joined_bias()
            self._stamp = now
        if not self._released and all(id(weight) in release for weight in self.weights):
            self._released = self.weights
            for weight in self._released:
                released.release(weight)
            released.return_freed_memory()  # before the next product is packed
            self._stamp = self._now(stamp)
        return changed

    def _now(self, stamp: Stamper) -> Stamp:
        parameters = [p for layer in self.layers for p in layer.parameters(recurse=False)]
        on_cpu = parameters[0].device.type == "cpu"  # where the layout is the instruction set's
        stamps = (("released", id(p)) if is_released(p) else stamp(p) for p in parameters)
        return (_ext.core().isa() if on_cpu else None, *stamps)

    def _check_still_valid(self, now: Stamp) -> None:
        """Refuse changes that need the values of released weights; biases are still there."""
        assert self._stamp is not None
        if now[0] != self._stamp[0]:
            raise ConfigError(
                f"release_weights=True: weights were packed for {self._stamp[0]}, which is not "
                f"{now[0]}, and there is nothing to pack again; go back to {self._stamp[0]}"
            )
        for ours, weight in zip(self._released, self.weights, strict=True):
            if weight is not ours:
                raise ConfigError(
                    f"release_weights=True: a weight {list(weight.shape)} is another object than "
                    f"the one that was packed; call restore_weights() before replacing weights"
                )

    def restore(self) -> None:
        """Give released weights their memory and values back, bit for bit.

        Raises:
            ConfigError: the packed copy has other values (a mode that rounds), or another
                instruction set is in force.
        """
        if not self._released:
            return
        if not (self.mode == "fp32" or (self.mode == "bf16" and self._narrow)):
            raise ConfigError(
                f"release_weights=True with quantization={self.mode!r}: the weights' float values "
                f"are gone, only rounded ones are kept; load the model again"
            )
        packed, _ = self.packed
        try:
            values = packed.unpack()
        except ValueError as error:
            raise ConfigError(f"release_weights=True: cannot restore: {error}") from error
        for layer, weight, wide in zip(self.layers, self._released, values, strict=True):
            value = wide.to(weight.dtype)
            released.restore(weight, value.t().contiguous() if isinstance(layer, Conv1D) else value)
        self._released, self._stamp = (), None

    def _joined_bias(self) -> torch.Tensor | None:
        parts: list[torch.Tensor] = []
        for layer in self.layers:
            bias: Any = layer.bias
            weight: torch.Tensor = layer.weight  # type: ignore[assignment]
            none = torch.zeros(_num_outputs(layer), dtype=weight.dtype, device=weight.device)
            parts.append(none if bias is None else bias.detach())
        if all(layer.bias is None for layer in self.layers):
            return None
        return torch.cat(parts).to(self._rows)

    def __call__(
        self,
        x: torch.Tensor,
        *,
        residual: torch.Tensor | None = None,
        activation: str | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `fastsi.ops.linear`; x [R, in], of `rows_dtype`."""
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
        y = [layer(x.to(layer.weight.dtype)) for layer in self.layers]  # type: ignore[arg-type]
        if self.pair:
            y = [ops.act_mul(y[0], y[1], activation)]  # type: ignore[arg-type]
        joined = torch.cat(y, dim=-1).to(x.dtype)
        joined = joined if residual is None else joined + residual
        return joined if out is None else out.copy_(joined)


@contextmanager
def reopening(
    products: Sequence[PackedLayers], close: Callable[[PackedLayers], None]
) -> Iterator[Callable[[nn.Parameter], None]]:
    """Context for writing to parameters; the yielded function must be called before each.

    Products with released weights are restored one at a time, so that never all are held twice.

    Args:
        products: of one model.
        close: packs and releases a product again; called before the next is restored and at the
            end.
    """
    owners = {id(w): product for product in products for w in product.weights if is_released(w)}
    reopened: list[PackedLayers] = []

    def before_write(parameter: nn.Parameter) -> None:
        product = owners.get(id(parameter))
        if product is None or product in reopened:
            return
        while reopened:
            close(reopened.pop())
        product.restore()
        reopened.append(product)

    try:
        yield before_write
    finally:
        for product in reopened:
            close(product)
