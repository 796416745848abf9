"""What the C++ side sees of a tensor: pointer, shape, strides and type; never torch itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fastsi import _ext

if TYPE_CHECKING:
    from fastsi._C import TensorView

_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.int32: 4,
    torch.int64: 5,
    torch.uint8: 6,
    torch.int8: 7,
}
_TensorView = _ext.core().TensorView


def view(tensor: torch.Tensor) -> TensorView:
    """A view of ``tensor``; the caller keeps the tensor alive while it is used."""
    made: TensorView = _TensorView(
        tensor.data_ptr(), tensor.shape, tensor.stride(), _CODES[tensor.dtype]
    )
    return made


def maybe_view(tensor: torch.Tensor | None) -> TensorView | None:
    """`view` of an argument that may be left out."""
    return None if tensor is None else view(tensor)


def rows_dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its last dimension is contiguous, else a contiguous copy."""
    dense = tensor.stride(-1) == 1 or tensor.shape[-1] <= 1
    return tensor if dense else tensor.contiguous()
