"""Host arrays to the device and results back, without making either wait for the other.

A copy from pageable memory waits until the device has done all that was launched before it, so
everything goes through pinned memory, one copy per call. Pinned memory comes from torch's host
allocator, which does not hand it out again before the copy has run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

_ALIGN = 128
"""Bytes; kernels compiled for aligned pointers expect it."""
Array = npt.NDArray[np.generic]


def to_device(arrays: Mapping[str, Array], device: torch.device) -> dict[str, torch.Tensor]:
    """The arrays as tensors on ``device``, brought there by one asynchronous copy.

    On a CPU the tensors share the arrays' memory.
    """
    if device.type == "cpu":
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    return in_one_copy(arrays, device)


def in_one_copy(arrays: Mapping[str, Array], device: torch.device) -> dict[str, torch.Tensor]:
    """`to_device` by way of one buffer, on any device."""
    moved = FixedArrays(arrays, device)
    moved.fill(arrays)
    return {name: moved[name] for name in arrays}


class FixedArrays:
    """Arrays side by side in one tensor on a device, whose addresses stay while values change."""

    def __init__(self, like: Mapping[str, Array], device: torch.device) -> None:
        """Room for arrays of these names, shapes and dtypes; values mean nothing yet."""
        self._begin: dict[str, int] = {}
        total = 0
        for name, array in like.items():
            self._begin[name] = total
            total += -(-array.nbytes // _ALIGN) * _ALIGN
        self._flat = torch.empty(total, dtype=torch.uint8, device=device)

        def part(begin: int, array: Array) -> torch.Tensor:
            whole = self._flat[begin : begin + array.nbytes]
            return whole.view(torch.from_numpy(array[:0]).dtype).view(array.shape)

        self._parts = {name: part(self._begin[name], array) for name, array in like.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._parts[name]

    def fill(self, arrays: Mapping[str, Array]) -> None:
        """Bring all arrays to the device in one asynchronous copy."""
        host = torch.empty(self._flat.shape, dtype=torch.uint8, pin_memory=self._flat.is_cuda)
        flat = host.numpy()
        for name, begin in self._begin.items():
            data = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
            flat[begin : begin + len(data)] = data
        self._flat.copy_(host, non_blocking=True)


class Readback:
    """Tensors on their way to the host; `wait` gives them as arrays."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        """Start the copies, in the order of the stream that makes the tensors.

        Copies on a CPU too: the next step may write to the same memory.
        """
        self._event: torch.cuda.Event | None = None
        on_gpu = bool(tensors) and tensors[0].is_cuda
        self._host = tuple(_pinned_copy(t) if on_gpu else t.clone() for t in tensors)
        if on_gpu:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[Array]:
        """The arrays, once the device has made them."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.numpy() for tensor in self._host]


def _pinned_copy(tensor: torch.Tensor) -> torch.Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
