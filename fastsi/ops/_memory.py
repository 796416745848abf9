"""Memory that is read from end to end at every step."""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections.abc import Sequence

import torch

_ALIGN = 64
_HUGE = 1 << 21
_REGION = 16 * _HUGE
_SMALL = 1 << 16
_region = torch.empty(0, dtype=torch.uint8)  # what is left of the one in use
_lock = threading.Lock()


def aligned(nbytes: int) -> torch.Tensor:
    """``nbytes`` zeros as uint8 [nbytes] on the CPU, at a 64-byte boundary.

    Large ones ask for huge pages: weights and caches are read from end to end at every step, and
    translating addresses in pages of 4 KiB costs a tenth of the rate of memory, more in a virtual
    machine. Memory is taken from the system when it is first written.
    """
    if nbytes < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        align, spare = _ALIGN, torch.zeros(nbytes + _ALIGN, dtype=torch.uint8)
    else:
        region = mmap.mmap(-1, nbytes + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            region.madvise(mmap.MADV_HUGEPAGE)
        align, spare = _HUGE, torch.frombuffer(region, dtype=torch.uint8)
    start = -spare.data_ptr() % align
    return spare[start : start + nbytes]


def side_by_side(nbytes: int) -> torch.Tensor:
    """As `aligned`, for blocks that live about as long as those asked for before and after.

    Those too small for huge pages of their own, as the weights of a small model's layers are,
    share regions of them. A region goes back to the system once all its blocks are gone.
    """
    global _region
    if not _SMALL <= nbytes < _HUGE:
        return aligned(nbytes)
    taken = -(-nbytes // _ALIGN) * _ALIGN
    with _lock:
        if len(_region) < taken:
            _region = aligned(_REGION)
        block, _region = _region[:nbytes], _region[taken:]
    return block


def reserve(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory of ``shape`` whose values mean nothing yet; on a CPU as `aligned` gives it."""
    if device.type != "cpu":
        return torch.empty(*shape, dtype=dtype, device=device)
    return aligned(math.prod(shape) * dtype.itemsize).view(dtype).view(*shape)
