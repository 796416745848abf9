"""Plans of a decode step for the timing of `segment_attention`: groups of paths behind a prefix."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastsi.ops import SegmentPlan

_PAGE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Groups of paths, each behind its own prefix; path r has ``1 + r * 7 % suffix`` tokens."""

    groups: int
    paths: int
    prefix: int
    suffix: int
    """Longest suffix, tokens; 0: none."""
    query_heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def at(cls, dry: bool, *, prefix: int, suffix: int) -> Sizes:
        """8 groups of 32, heads of Llama-3.1-8B; in a dry run toys."""
        heads = (3, 1, 16) if dry else (32, 8, 128)
        return cls(
            groups=2 if dry else 8,
            paths=3 if dry else 32,
            prefix=prefix,
            suffix=suffix,
            query_heads=heads[0],
            kv_heads=heads[1],
            head_dim=heads[2],
        )

    @property
    def rows(self) -> int:
        """Decoding paths."""
        return self.groups * self.paths

    @property
    def suffixes(self) -> list[int]:
        """Tokens of each path's own span."""
        return [1 + row * 7 % self.suffix for row in range(self.rows)] if self.suffix else []

    def floor(self, itemsize: int) -> tuple[float, float]:
        """Operations of the two products; bytes of keys and values once, queries and output."""
        own = sum(self.suffixes)
        pairs = self.rows * self.prefix + own
        tokens = self.groups * self.prefix + own
        moved = 2.0 * tokens * self.kv_heads + 2.0 * self.rows * self.query_heads
        return 4.0 * pairs * self.query_heads * self.head_dim, moved * self.head_dim * itemsize


def plan_of(sizes: Sizes, device: torch.device, *, sharing: bool) -> SegmentPlan:
    """The plan; without ``sharing`` every row reads its group's pages for itself."""
    pages: list[list[int]] = []
    lengths: list[int] = []
    starts: list[int] = []
    rows: list[tuple[int, int]] = []
    per_path: list[bool] = []
    used = 0

    def take(length: int) -> list[int]:
        nonlocal used
        count = -(-length // _PAGE)
        used += count
        return list(range(used - count, used))

    for group in range(sizes.groups):
        shared, first = take(sizes.prefix), group * sizes.paths
        last = first + sizes.paths
        spans = [(first, last)] if sharing else [(row, row + 1) for row in range(first, last)]
        for span in spans:
            pages.append(shared)
            lengths.append(sizes.prefix)
            starts.append(0)
            rows.append(span)
            per_path.append(False)
    for row, length in enumerate(sizes.suffixes):
        pages.append(take(length))
        lengths.append(length)
        starts.append(sizes.prefix)
        rows.append((row, row + 1))
        per_path.append(True)
    suffixes = sizes.suffixes or [0] * sizes.rows
    return SegmentPlan.from_lists(
        pages=pages,
        page_offset=[0] * len(pages),
        kv_len=lengths,
        kv_start=starts,
        rows=rows,
        causal=[False] * len(pages),
        row_pos=[sizes.prefix + length - 1 for length in suffixes],
        per_path=per_path,
        device=device,
    )


def cache_of(
    sizes: Sizes, plan: SegmentPlan, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys and values for every page of the plan."""
    shape = (int(plan.page_ids.max()) + 1, sizes.kv_heads, _PAGE, sizes.head_dim)
    k, v = (torch.randn(shape, device=device).to(dtype) for _ in "kv")
    return k, v
