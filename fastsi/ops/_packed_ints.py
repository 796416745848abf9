"""Several int32 arrays side by side in one tensor, so that one copy brings them to a device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

_ALIGN = 32
"""Arrays start at multiples of 128 bytes, as kernels compiled for aligned pointers expect."""


class PackedInts:
    """Arrays of fixed capacity in one tensor on ``device``."""

    def __init__(self, sizes: Mapping[str, int], device: torch.device | str) -> None:
        self._begin: dict[str, int] = {}
        total = 0
        for name, size in sizes.items():
            self._begin[name] = total
            total += -(-max(size, 1) // _ALIGN) * _ALIGN
        self._size = dict(sizes)
        self._flat = torch.zeros(total, dtype=torch.int32, device=device)

    def view(self, name: str) -> torch.Tensor:
        """The array called ``name``, int32, one dimension."""
        begin = self._begin[name]
        return self._flat[begin : begin + self._size[name]]

    def misfit(self, arrays: Mapping[str, npt.NDArray[np.int32]]) -> str | None:
        """Which of ``arrays`` is larger than its place, as text; None if all fit."""
        for name, array in arrays.items():
            if array.size > self._size[name]:
                return f"{name}: needs {array.size} integers, the buffer holds {self._size[name]}"
        return None

    def fill(self, arrays: Mapping[str, npt.NDArray[np.int32]]) -> None:
        """Copy every array into its place; what is left of a place becomes 0.

        On CUDA the copy is asynchronous, on the current stream, from pinned memory that torch's
        host allocator does not hand out again before the copy has run.

        Raises:
            ValueError: an array does not fit.
        """
        misfit = self.misfit(arrays)
        if misfit is not None:
            raise ValueError(misfit)
        cuda = self._flat.is_cuda
        host = torch.empty(self._flat.shape, dtype=torch.int32, pin_memory=cuda)
        flat = host.numpy()
        flat[:] = 0
        for name, array in arrays.items():
            begin = self._begin[name]
            flat[begin : begin + array.size] = array.reshape(-1)
        self._flat.copy_(host, non_blocking=cuda)
