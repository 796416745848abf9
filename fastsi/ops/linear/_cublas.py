"""cuBLAS backend of `linear`, through torch: the products, with what cuBLAS can do in the same go.

A residual is added by the product itself (beta = 1), a bias by its epilogue. The activation of a
pair takes a launch of its own.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from fastsi.ops.linear.packed import PackedWeight
from fastsi.ops.norm_rope_act.api import act_mul


def linear(
    x: torch.Tensor,
    packed: PackedWeight,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str | None,
    row_index: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """See `fastsi.ops.linear`."""
    weights = packed.own(x.dtype)
    x = x if row_index is None else x[row_index]
    if packed.pair:
        return _pair(x, weights, bias, residual, activation, out)
    if activation is not None:
        y = _activated(_products(x, weights, bias, None, None), activation)
        if residual is not None:
            return torch.add(y, residual, out=out)
        return y if out is None else out.copy_(y)
    return _products(x, weights, bias, residual, out)


def _pair(
    x: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    if len(weights) == 1:
        gate, up = _products(x, weights, bias, None, None).chunk(2, dim=1)
    else:
        biases = (None, None) if bias is None else bias.chunk(2)
        gate, up = (
            functional.linear(x, weight, own) for weight, own in zip(weights, biases, strict=True)
        )
    target = out if residual is None else None
    if activation is None:
        y = torch.mul(gate, up, out=target)
    else:
        y = act_mul(gate, up, activation, out=target)  # type: ignore[arg-type]
    return y if residual is None else torch.add(y, residual, out=out)


def _products(
    x: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """x @ W.T + bias + residual of weights side by side."""
    if len(weights) == 1:
        return _product(x, weights[0], bias, residual, out)
    sizes = [weight.shape[0] for weight in weights]
    if out is None:
        out = x.new_empty(x.shape[0], sum(sizes))
    columns = out.split_with_sizes(sizes, dim=1)
    biases = [None] * len(sizes) if bias is None else bias.split_with_sizes(sizes)
    old = [None] * len(sizes) if residual is None else residual.split_with_sizes(sizes, dim=1)
    for weight, own, before, part in zip(weights, biases, old, columns, strict=True):
        _product(x, weight, own, before, part)
    return out


def _product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    if residual is not None:
        y = torch.addmm(residual, x, weight.t(), out=out)
        return y if bias is None else y.add_(bias)
    if out is None:
        return functional.linear(x, weight, bias)
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)


def _activated(y: torch.Tensor, activation: str) -> torch.Tensor:
    if activation == "silu":
        return functional.silu(y, inplace=True)
    return functional.gelu(y, approximate="tanh" if activation == "gelu_tanh" else "none")
