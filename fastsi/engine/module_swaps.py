"""Faster forwards for modules of any architecture, in force only while a session lasts.

A swapped module stays the object it is, with its own Parameters; for the time of a session its
instance attribute ``forward`` hides the method of its class. Hooks and wrappers (PEFT's adapters
around a base layer) keep working, since they call the module and not the function.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fastsi import ops
from fastsi.engine import packed_layers
from fastsi.engine.packed_layers import PackedLayers, Stamper
from fastsi.engine.released import Watch, watched

Forward = Callable[..., Any]
_PROBE_ROWS = 3
MLP_PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


class ModuleSwaps:
    """The replacements for one model, found once per structure."""

    def __init__(self, model: nn.Module, mode: str, *, deterministic: bool = False) -> None:
        """Find what can be replaced; ``deterministic`` as in `PackedLayers`."""
        self._deterministic = deterministic
        self.products: list[PackedLayers] = []
        self.forwards: dict[nn.Module, Forward] = {}
        self.left: dict[str, str] = {}
        """Names of modules with matrices that run as their author wrote them, and why."""
        self._adapters = _adapter_layers(model)
        inside: set[nn.Module] = set()
        for name, module in model.named_modules():
            if module in inside:
                continue
            gated = _gated_mlp(module, mode, deterministic)
            if gated is not None:
                self.forwards[module], products = gated
                self.products += products
                inside |= set(module.modules())
            elif isinstance(module, nn.Linear | Conv1D):
                self._add_linear(name, module, "fp32" if module in self._adapters else mode)
            elif (norm := _rms_norm(module)) is not None:
                self.forwards[module] = norm
            elif not isinstance(module, nn.Embedding) and _has_matrix(module):
                self.left[name] = f"{type(module).__name__} holds matrices of its own"

    def _add_linear(self, name: str, module: nn.Module, mode: str) -> None:
        reason = packed_layers.refusal(module, mode)
        if reason is None and "forward" in vars(module):
            reason = "its forward has been replaced"
        if reason is not None:
            self.left[name] = reason
            return
        product = PackedLayers([module], mode, deterministic=self._deterministic)
        self.products.append(product)
        self.forwards[module] = _linear_forward(product)

    def refresh(self, stamp: Stamper, release: Collection[int] = ()) -> None:
        """Pack what has changed; ``release`` as in `PackedLayers.refresh`."""
        for product in self.products:
            product.refresh(stamp, release)

    def read_elsewhere(self, run: Callable[[], object]) -> set[int]:
        """``id`` of packed weights that something besides the replaced forwards reads, or adapts.

        Args:
            run: makes a pass of the model.
        """
        weights = {id(w): w for product in self.products for w in product.weights}
        plain = [weight for weight in weights.values() if type(weight) is nn.Parameter]
        with watched(plain) as watch, self._in_place_of_forwards(_unnoticed(watch)):
            run()
        adapters = {id(p) for module in self._adapters for p in module.parameters()}
        return watch.read | adapters

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use the replacements for the block."""
        with self._in_place_of_forwards(self.forwards.__getitem__):
            yield

    @contextmanager
    def _in_place_of_forwards(self, of: Callable[[nn.Module], Forward]) -> Iterator[None]:
        try:
            for module in self.forwards:
                vars(module)["forward"] = of(module)
            yield
        finally:
            for module in self.forwards:
                vars(module).pop("forward", None)


def _unnoticed(watch: Watch) -> Callable[[nn.Module], Forward]:
    """The forward of a module's class, of whose reads ``watch`` takes no note."""

    def of(module: nn.Module) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            with watch.paused():
                return type(module).forward(module, *args, **kwargs)

        return forward

    return of


def _linear_forward(product: PackedLayers) -> Forward:
    rows = packed_layers.rows_dtype(product.weights[0])

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = product(x.reshape(-1, x.shape[-1]).to(rows))
        return y.to(x.dtype).view(*x.shape[:-1], product.out_features)

    return forward


def _gated_mlp(
    module: nn.Module, mode: str, deterministic: bool
) -> tuple[Forward, list[PackedLayers]] | None:
    """``down(activation(gate(x)) * up(x))`` in two products, for a module that does just that."""
    parts = dict(module.named_children())
    if set(parts) != set(MLP_PARTS) or "forward" in vars(module):
        return None
    gate, up, down, act = (parts[name] for name in MLP_PARTS)
    activation = activation_of(act)
    layers = (gate, up, down)
    if activation is None or any(packed_layers.refusal(layer, mode) for layer in layers):
        return None
    if any(
        "forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in parts.values()
    ):
        return None
    both = PackedLayers([gate, up], mode, pair=True, deterministic=deterministic)
    last = PackedLayers([down], mode, deterministic=deterministic)
    weight = packed_layers.weight_of(gate)
    probe, rows = _probe_rows(weight), packed_layers.rows_dtype(weight)
    with torch.no_grad():
        expected = module(probe)
        found = last.plain(both.plain(probe, activation=activation))
    if not _close(found, expected):
        return None

    def forward(x: torch.Tensor) -> torch.Tensor:
        gated = both(x.reshape(-1, x.shape[-1]).to(rows), activation=activation)
        return last(gated).to(x.dtype).view(x.shape)

    return forward, [both, last]


def activation_of(function: Callable[[torch.Tensor], torch.Tensor]) -> str | None:
    """Which known activation a function is; numbers tell, since many classes do the same."""
    x = torch.linspace(-6, 6, 97)
    with torch.no_grad():
        found = function(x)
    for name in get_args(ops.Activation):
        if torch.allclose(found, ops.act_mul(x[None], torch.ones(1, 97), name)[0], atol=1e-6):
            return str(name)
    return None


def _probe_rows(weight: torch.Tensor) -> torch.Tensor:
    """Rows [3, width] of the kind of ``weight`` [.., width]; any do that differ."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_PROBE_ROWS, weight.shape[-1], generator=generator).to(weight)


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether rounding explains the difference: a few roundings of the largest value."""
    if found.shape != expected.shape:
        return False
    allowed = max(1e-5, 4 * torch.finfo(expected.dtype).eps) * max(1.0, float(expected.abs().max()))
    return bool((found - expected).abs().max() <= allowed)


def _rms_norm(module: nn.Module) -> Forward | None:
    """`ops.rms_norm` for a module that does exactly that, which a few rows of numbers tell."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    names = [name for name, _ in module.named_parameters()]
    if not isinstance(eps, float) or names != ["weight"] or list(module.children()):
        return None
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    exact = weight.dtype == torch.float32
    wanted = (weight.device.type == "cpu" and exact) or weight.device.type == "cuda"
    if weight.dim() != 1 or not wanted or "forward" in vars(module):
        return None

    rows = _probe_rows(weight)
    with torch.no_grad():
        try:
            expected = module(rows)
        except (TypeError, RuntimeError):
            return None
        # Gemma's norms scale by 1 + weight, which in 16 bits would be rounded.
        for offset in (0.0, 1.0) if exact else (0.0,):
            forward = _norm_forward(module, eps, offset)
            if _close(forward(rows), expected):
                return forward
    return None


def _norm_forward(module: nn.Module, eps: float, offset: float) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = module.weight  # type: ignore[assignment]
        scale = weight + offset if offset else weight
        return ops.rms_norm(x.reshape(-1, x.shape[-1]), scale, eps).view(x.shape)

    return forward


def _has_matrix(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


def _adapter_layers(model: nn.Module) -> set[nn.Module]:
    """Linear layers of PEFT adapters: small, just trained, and never quantised."""
    found: set[nn.Module] = set()
    for module in model.modules():
        if hasattr(module, "base_layer"):
            inner: Sequence[nn.Module] = list(module.base_layer.modules())  # type: ignore[union-attr]
            found |= {m for m in module.modules() if m is not module and m not in inner}
    return found
