"""Memory for weights and caches: boundaries, contents, and that it is given back."""

from __future__ import annotations

import gc
import itertools
import mmap
from pathlib import Path

import pytest
import torch

from fastsi.ops import _memory

MB = 1 << 20


@pytest.mark.parametrize("make", [_memory.aligned, _memory.side_by_side])
def test_blocks_are_zero_aligned_and_apart(make: object) -> None:
    assert callable(make)
    sizes = [0, 1, 63, 64, 100_001, MB, 2 * MB - 1, 2 * MB, 3 * MB + 5] * 3
    blocks = [make(size) for size in sizes]
    for block, size in zip(blocks, sizes, strict=True):
        assert (block.dtype, len(block)) == (torch.uint8, size)
        assert size == 0 or block.data_ptr() % 64 == 0
        assert not block.any()
    for number, block in enumerate(blocks):
        block.fill_(number + 1)
    for number, block in enumerate(blocks):
        assert (block == number + 1).all()


def test_small_blocks_lie_side_by_side() -> None:
    blocks = [_memory.side_by_side(300_000) for _ in range(8)]
    begins = [block.data_ptr() for block in blocks]
    steps = {b - a for a, b in itertools.pairwise(begins)}
    assert 300_032 in steps
    assert len(steps) <= 2, "more than one new region"


def test_regions_are_given_back_once_their_blocks_are_gone() -> None:
    def resident() -> int:
        gc.collect()
        return int(statm.read_text().split()[1]) * mmap.PAGESIZE

    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")
    before = resident()
    blocks = [_memory.side_by_side(MB).fill_(1) for _ in range(300)]
    assert resident() - before > 250 * MB
    kept = blocks[150]
    blocks.clear()
    assert resident() - before < 3 * 33 * MB, "the regions in use and of the kept block may stay"
    assert (kept == 1).all()
