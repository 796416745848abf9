"""`SegmentPlan`: which rows attend to which spans of the KV cache, built once per step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

_INDEX = ("page_indptr", "page_ids", "page_offset", "kv_len", "kv_start")
_ROWS = ("row_begin", "row_end", "causal", "per_path", "row_pos")
FIELDS = (*_INDEX, *_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentPlan:
    """Spans of keys and values and the rows that attend to each; all tensors are int32.

    For S segments over P pages and R rows. Token j of segment s stands at slot
    ``page_offset[s] + j`` counted from the start of its first page, at absolute position
    ``kv_start[s] + j``. Segments are listed root first. Tensors must not change after first use.
    """

    page_indptr: torch.Tensor
    """[S + 1]: segment s owns ``page_ids[page_indptr[s]:page_indptr[s + 1]]``."""
    page_ids: torch.Tensor
    """[P]: pages of each segment, in order."""
    page_offset: torch.Tensor
    """[S]: slot of the segment's first token inside its first page."""
    kv_len: torch.Tensor
    """[S]: tokens in the span, 0 allowed."""
    kv_start: torch.Tensor
    """[S]: absolute position of the span's first token."""
    row_begin: torch.Tensor
    """[S]: first row that attends to the span."""
    row_end: torch.Tensor
    """[S]: one past the last such row."""
    causal: torch.Tensor
    """[S]: 1 where some row may be earlier than some token of the span."""
    per_path: torch.Tensor
    """[S]: 1 where the span belongs to one path, whose rows alone can ever attend to it. It may
    choose the arithmetic, and so the last bits; it must not change while the path lives."""
    row_pos: torch.Tensor
    """[R]: absolute position of each row's token."""
    _prepared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        segments = self.kv_len.shape[0]
        for name in FIELDS:
            tensor: torch.Tensor = getattr(self, name)
            if tensor.dtype != torch.int32 or tensor.dim() != 1:
                raise ValueError(
                    f"plan.{name}: is {tensor.dtype} with {tensor.dim()} dimensions, "
                    f"must be int32 with one"
                )
            if tensor.device != self.kv_len.device:
                raise ValueError(f"plan.{name}: is on {tensor.device}, not {self.kv_len.device}")
            want = segments + (name == "page_indptr")
            if name not in ("page_ids", "row_pos") and tensor.shape[0] != want:
                raise ValueError(f"plan.{name}: has {tensor.shape[0]} entries, must have {want}")

    @classmethod
    def from_lists(
        cls,
        *,
        pages: Sequence[Sequence[int]],
        page_offset: Sequence[int],
        kv_len: Sequence[int],
        kv_start: Sequence[int],
        rows: Sequence[tuple[int, int]],
        causal: Sequence[bool],
        row_pos: Sequence[int],
        per_path: Sequence[bool] | None = None,
        device: torch.device | str = "cpu",
    ) -> SegmentPlan:
        """Build from one list entry per segment; ``rows`` holds (begin, end) pairs.

        Without ``per_path`` no span belongs to a path.
        """
        indptr = [0]
        for ids in pages:
            indptr.append(indptr[-1] + len(ids))

        def ints(values: Sequence[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32, device=device)

        return cls(
            page_indptr=ints(indptr),
            page_ids=ints([page for ids in pages for page in ids]),
            page_offset=ints(page_offset),
            kv_len=ints(kv_len),
            kv_start=ints(kv_start),
            row_begin=ints([begin for begin, _ in rows]),
            row_end=ints([end for _, end in rows]),
            causal=ints([int(flag) for flag in causal]),
            per_path=ints([int(flag) for flag in per_path or [False] * len(kv_len)]),
            row_pos=ints(row_pos),
        )

    @property
    def num_segments(self) -> int:
        """S."""
        return self.kv_len.shape[0]

    @property
    def num_rows(self) -> int:
        """R."""
        return self.row_pos.shape[0]

    def to(self, device: torch.device | str) -> SegmentPlan:
        """The same plan on another device."""
        moved = {name: getattr(self, name).to(device) for name in FIELDS}
        return dataclasses.replace(self, **moved)

    def prepared(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What a backend makes of this plan, made once and shared by all layers of the step."""
        made = self._prepared.get(key)
        if made is None:
            made = self._prepared[key] = build()
        return made
