"""`SegmentPlan`: which rows attend to which spans of the KV cache, built once per step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fastsi.ops._packed_ints import PackedInts

if TYPE_CHECKING:
    from fastsi.ops.segment_attention.work import SegmentWork

_INDEX = ("page_indptr", "page_ids", "page_offset", "kv_len", "kv_start")
_ROWS = ("row_begin", "row_end", "causal", "per_path", "row_pos")
FIELDS = (*_INDEX, *_ROWS)

Host = Mapping[str, npt.NDArray[np.int32]]


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
    host: Host | None = field(default=None, repr=False)
    """The same arrays in host memory, where the plan was built from them; see `host_arrays`."""
    work: SegmentWork | None = field(default=None, repr=False)
    """The work list of the Triton backend; without one the backend plans its own."""
    _packed: PackedInts | None = field(default=None, repr=False)
    """What holds the tensors of a plan made by `buffers` or `from_numpy`."""
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
        columns: dict[str, Sequence[int]] = {
            "page_indptr": indptr,
            "page_ids": [page for ids in pages for page in ids],
            "page_offset": page_offset,
            "kv_len": kv_len,
            "kv_start": kv_start,
            "row_begin": [begin for begin, _ in rows],
            "row_end": [end for _, end in rows],
            "causal": [int(flag) for flag in causal],
            "per_path": [int(flag) for flag in per_path or [False] * len(kv_len)],
            "row_pos": row_pos,
        }
        host = {name: np.asarray(values, dtype=np.int32) for name, values in columns.items()}
        return cls.from_numpy(host, device)

    @classmethod
    def from_numpy(cls, arrays: Host, device: torch.device | str = "cpu") -> SegmentPlan:
        """Build from one int32 array per field; they reach the device in one copy and stay
        beside the plan in host memory."""
        host = {name: np.ascontiguousarray(arrays[name], dtype=np.int32) for name in FIELDS}
        packed = PackedInts({name: array.size for name, array in host.items()}, device)
        packed.fill(host)
        tensors: dict[str, Any] = {name: packed.view(name) for name in FIELDS}
        return cls(**tensors, host=host, _packed=packed)

    @classmethod
    def buffers(
        cls, *, max_segments: int, max_pages: int, max_rows: int, device: torch.device | str
    ) -> SegmentPlan:
        """A plan of fixed capacity, for kernels that are recorded once and replayed: `copy_into`
        fills it. Segments and rows beyond those of the last plan are empty."""
        sizes = dict.fromkeys(FIELDS, max_segments)
        sizes |= {"page_indptr": max_segments + 1, "page_ids": max_pages, "row_pos": max_rows}
        packed = PackedInts(sizes, device)
        tensors: dict[str, Any] = {name: packed.view(name) for name in FIELDS}
        return cls(**tensors, _packed=packed)

    def fits(self, buffers: SegmentPlan) -> bool:
        """Whether `copy_into` has room for this plan."""
        return buffers._packed is not None and not buffers._packed.misfit(self.host_arrays())

    def copy_into(self, buffers: SegmentPlan) -> None:
        """Fill a plan made by `buffers` with one copy (asynchronous on CUDA).

        Raises:
            ValueError: ``buffers`` is another kind of plan, or too small.
        """
        if buffers._packed is None:
            raise ValueError("buffers: must come from SegmentPlan.buffers")
        buffers._packed.fill(self.host_arrays())

    @property
    def num_segments(self) -> int:
        """S."""
        return self.kv_len.shape[0]

    @property
    def num_rows(self) -> int:
        """R."""
        return self.row_pos.shape[0]

    def host_arrays(self) -> Host:
        """Every field as a numpy array; a plan made of device tensors is copied back, once."""
        if self.host is not None:
            return self.host
        made: Host = self.prepared(
            "host", lambda: {name: getattr(self, name).cpu().numpy() for name in FIELDS}
        )
        return made

    def to(self, device: torch.device | str) -> SegmentPlan:
        """The same plan, and its work list, on another device."""
        moved = {name: getattr(self, name).to(device) for name in FIELDS}
        work = None if self.work is None else self.work.to(device)
        return dataclasses.replace(self, **moved, work=work, _packed=None)

    def prepared(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What a backend makes of this plan, made once and shared by all layers of the step."""
        made = self._prepared.get(key)
        if made is None:
            made = self._prepared[key] = build()
        return made
