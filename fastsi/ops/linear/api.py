"""Public face of `linear`: checks and the choice of a backend."""

from __future__ import annotations

import torch

from fastsi.ops import _checks, _registry
from fastsi.ops.linear.packed import PackedWeight
from fastsi.types import check_known

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


def linear(
    x: torch.Tensor,
    packed: PackedWeight,
    *,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str | None = None,
    row_index: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Product of rows with packed weights, with what usually follows it.

    With y = x @ W.T + bias over all n output features, the result is activation(y) + residual; for
    a pair with y = [gate, up] it is activation(gate) * up + residual. On the CPU a row has the same
    bits whatever rows stand beside it and whatever the number of threads; on a GPU on backend
    "triton", which is slower than cuBLAS, whose kernels, and so whose bits, follow from the number
    of rows.

    Args:
        x: [rows, k], float32 on the CPU backend, the weights' dtype on a GPU; any strides with a
            contiguous last dimension.
        packed: made by `pack_weight`, n output features.
        bias: [n], x's dtype, in the order of the weights given to `pack_weight`.
        residual: [rows, packed.out_features], x's dtype.
        activation: None, "silu", "gelu" (with erf) or "gelu_tanh".
        row_index: int64 [rows]: result row r comes from x[row_index[r]]; x may then have any
            number of rows.
        out: [rows, packed.out_features], x's dtype, written and returned; it may be ``residual``,
            but must not overlap x.
        backend: a name, or "auto".

    Returns:
        [rows, packed.out_features], x's dtype. A gradient, where asked for, flows through the
        reference backend to x, bias and residual, never to the packed weights.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or row_index points outside x.
        ConfigError: no such activation.
        BackendUnavailable: the requested backend cannot run.
    """
    _check(x, packed, bias, residual, activation, row_index, out)
    others = [tensor for tensor in (bias, residual) if tensor is not None]
    run = _registry.choose("linear", _registry.facts(x, *others), _backend(packed, backend))
    result: torch.Tensor = run(x, packed, bias, residual, activation, row_index, out)
    return result


def _backend(packed: PackedWeight, backend: str) -> str:
    """What "auto" means for these weights.

    Packed without the extension, they have no layout that its kernels read.
    """
    on_gpu = packed.layout == "own" and packed.weights[0].is_cuda
    return "reference" if backend == "auto" and packed.handle is None and not on_gpu else backend


def _check(
    x: torch.Tensor,
    packed: PackedWeight,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str | None,
    row_index: torch.Tensor | None,
    out: torch.Tensor | None,
) -> None:
    _checks.require_float("x", x)
    _checks.require_shape("x", x, (None, packed.k))
    rows = x.shape[0]
    if row_index is not None:
        _checks.require_shape("row_index", row_index, (None,))
        _checks.require_dtype("row_index", row_index, torch.int64)
        _checks.require_device("row_index", row_index, x.device)
        rows = row_index.shape[0]
    shape = (rows, packed.out_features)
    for name, tensor, wanted in (
        ("bias", bias, (packed.n,)),
        ("residual", residual, shape),
        ("out", out, shape),
    ):
        if tensor is not None:
            _checks.require_shape(name, tensor, wanted)
            _checks.require_dtype(name, tensor, x.dtype)
            _checks.require_device(name, tensor, x.device)
    if out is not None and out.stride(-1) != 1 and out.shape[-1] > 1:
        raise ValueError(f"out: strides are {out.stride()}, the last dimension must be contiguous")
    if activation is not None:
        check_known([activation], ACTIVATIONS, "activation")
