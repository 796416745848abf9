"""What launches of GPU kernels share."""

from __future__ import annotations

import contextlib

import torch


def on_device(tensor: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Context in which kernels run on the tensor's device; nothing to do on one GPU or a CPU."""
    device = tensor.device
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def rows_dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its last dimension is contiguous, else a contiguous copy."""
    dense = tensor.stride(-1) == 1 or tensor.shape[-1] <= 1
    return tensor if dense else tensor.contiguous()
