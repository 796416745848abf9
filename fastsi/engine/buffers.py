"""Memory for results between ops, kept from step to step."""

from __future__ import annotations

import torch

from fastsi.ops._memory import reserve

Buffers = dict[str, torch.Tensor]
"""By name."""


def buffer(
    held: Buffers, name: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Memory [rows, columns], kept between steps; values mean nothing yet.

    Fresh pages for 50 MB of logits take milliseconds on a CPU.
    """
    rows, columns = shape
    found = held.get(name)
    if found is None or found.shape[0] < rows or found.shape[1] != columns:
        found = held[name] = reserve(shape, dtype, device)
    return found[:rows]
