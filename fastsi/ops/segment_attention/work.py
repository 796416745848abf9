"""The work list of `segment_attention` on a GPU: planned once per step, used by every layer.

Two kernels read it. The first takes ``tiles``: up to M pairs (row, query head of a KV head's group)
of one segment against one split of its tokens, so that a span shared by many rows is read once and
its products fill the tensor cores. The second takes ``rows``: it merges what tiles found for a row
and adds the row's own spans (``spans``), which no other row reads. Each has a program per KV head.

A span goes to the tiles or to its rows, and is cut, by its own length and flags and never by the
rows beside it. So a row's sum has the same terms in the same order in every batch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastsi.ops._packed_ints import PackedInts
from fastsi.ops.segment_attention._spans import (
    ROW_INTS,
    SPAN_INTS,
    SPLIT_ALIGN,
    TILE_INTS,
    Spans,
    check_plan,
    table,
    tile_records,
)
from fastsi.ops.segment_attention.plan import SegmentPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkShape:
    """What planning depends on besides the plan; the same for all layers of a model."""

    q_heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    window: int | None = None
    """Splits that no row of their segment sees through this window are left out. A list planned
    without a window serves layers with any window: kernels mask by themselves."""
    tiles: tuple[int, ...] = (64, 128)
    """Pairs (row, head) per tile to choose from, ascending powers of two from 16. On a GPU the
    defaults do a pair's sums in the same order, 16 pairs to a warp."""
    split_tokens: int = 256
    """Least tokens per split of a shared span."""
    split_growth: int = 0
    """A shared span of n tokens is cut into splits of sqrt(n * split_growth) tokens, if more than
    ``split_tokens``: partial results cost bytes, too few programs leave processors idle."""
    causal_split_tokens: int = 4096
    """Tokens per split of a causal span: prefill has rows enough to fill the device."""
    own_split_tokens: int = 512
    """Tokens of a row's own span that the row's program reads; those before go to tiles."""
    min_shared_tokens: int = 32
    """Shared spans of fewer tokens are read by every row for itself (flashinfer #595 and vllm
    #44397 report that grouping loses there). Per row and KV head a partial result moves 8 * group *
    head_dim bytes, and n tokens 4 * n * head_dim from the cache of the device: with groups of 4
    the bytes are equal at 8 tokens. A tile's own latency puts the default above; the time
    has not been measured on a GPU yet."""
    deterministic: bool = False
    """One tile, splits of ``split_tokens``, no other choice by length or by the flag ``causal``: a
    row's bits are also those of the same row in a chunk."""

    def __post_init__(self) -> None:
        if self.kv_heads < 1 or self.q_heads < 1 or self.q_heads % self.kv_heads:
            raise ValueError(
                f"q_heads={self.q_heads}: must be a positive multiple of kv_heads={self.kv_heads}"
            )
        for name in ("split_tokens", "causal_split_tokens", "own_split_tokens"):
            value = getattr(self, name)
            if value < SPLIT_ALIGN or value % SPLIT_ALIGN:
                raise ValueError(f"{name}={value}: must be a positive multiple of {SPLIT_ALIGN}")
        powers = [tile for tile in self.tiles if tile >= 16 and tile & (tile - 1) == 0]
        if not powers or list(self.tiles) != sorted(set(powers)):
            raise ValueError(f"tiles={self.tiles}: must be ascending powers of two from 16")

    @classmethod
    def for_heads(
        cls,
        q_heads: int,
        kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        element_bytes: int = 2,
        deterministic: bool = False,
        **more: Any,
    ) -> WorkShape:
        """The default for a model: q's ``element_bytes`` is 4 for float32, whose products have no
        tensor cores and whose tiles must stay small. ``more`` overrides fields."""
        tiles: tuple[int, ...] = (64, 128) if head_dim <= 128 else (64,)
        if element_bytes == 4:
            tiles = (16,)
        chosen: dict[str, Any] = {"tiles": tiles, "split_growth": 32 * kv_heads}
        if deterministic:
            chosen = {"tiles": tiles[-1:], "split_tokens": 512, "deterministic": True}
        shape = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim}
        return cls(**(shape | {"page_size": page_size} | chosen | more))

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.q_heads // self.kv_heads

    def tile(self, rows: int) -> int:
        """The smallest tile that holds all pairs of ``rows`` rows, or else the largest."""
        if self.deterministic:
            return self.tiles[-1]
        return next((m for m in self.tiles if m >= rows * self.group), self.tiles[-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentWork:
    """Work list of one plan. Tensors are int32; numbers are sizes in use, in `buffers` capacities.

    `plan_work` makes it in host memory; `to` or `copy_into` brings it to the device.
    """

    shape: WorkShape
    tile: int
    """M: pairs (row, query head of the group) per tile."""
    counts: torch.Tensor
    """[2]: tiles and rows in use. A program past them returns at once, so a grid may be larger."""
    tiles: torch.Tensor
    """[num_tiles, 16], columns `TILE_FIELDS`; longest first."""
    rows: torch.Tensor
    """[num_rows, 8], columns `ROW_FIELDS`: rows that need the second kernel, longest first. Of all
    others a tile writes the result."""
    spans: torch.Tensor
    """[num_spans, 8], columns `SPAN_FIELDS`: own spans of ``rows``."""
    slots: torch.Tensor
    """[num_slots]: for every row of every segment in tiles, where the first of its partial results
    goes."""
    num_tiles: int
    num_rows: int
    num_spans: int
    num_slots: int
    num_partials: int
    """Partial results, each [q_heads, head_dim] and [q_heads]."""
    plan_rows: int
    """R of the plan."""
    num_pages: int
    """One past the largest page in use; in `buffers` 0: not known on the host."""
    _packed: PackedInts | None = field(default=None, repr=False)

    @classmethod
    def buffers(
        cls,
        shape: WorkShape,
        *,
        tile: int,
        max_tiles: int,
        max_rows: int,
        max_spans: int,
        max_slots: int,
        max_partials: int,
        device: torch.device | str,
    ) -> SegmentWork:
        """A work list of fixed capacity for kernels that are recorded once and replayed.

        Args:
            shape: of the lists that `copy_into` will bring.
            tile: their tile; see `plan_work`.
            max_tiles: records of ``tiles``.
            max_rows: rows of the plan, padding included; `copy_into` gives rows beyond those of
                its plan the result of a row that sees nothing.
            max_spans: records of ``spans``.
            max_slots: entries of ``slots``.
            max_partials: partial results; their memory is allocated by every launch.
            device: where kernels run.
        """
        sizes = {"counts": 2, "tiles": max_tiles * TILE_INTS, "rows": max_rows * ROW_INTS}
        sizes |= {"spans": max_spans * SPAN_INTS, "slots": max_slots}
        packed = PackedInts(sizes, device)
        return cls(
            shape=shape,
            tile=tile,
            counts=packed.view("counts"),
            tiles=packed.view("tiles").view(-1, TILE_INTS),
            rows=packed.view("rows").view(-1, ROW_INTS),
            spans=packed.view("spans").view(-1, SPAN_INTS),
            slots=packed.view("slots"),
            num_tiles=max_tiles,
            num_rows=max_rows,
            num_spans=max_spans,
            num_slots=max_slots,
            num_partials=max_partials,
            plan_rows=max_rows,
            num_pages=0,
            _packed=packed,
        )

    def misfit(self, buffers: SegmentWork) -> str | None:
        """Why `copy_into` would refuse ``buffers``, or None."""
        if buffers._packed is None:
            return "buffers must come from SegmentWork.buffers"
        if (self.shape, self.tile) != (buffers.shape, buffers.tile):
            return f"planned for {self.shape}, tile {self.tile}; buffers for other ones"
        for name in ("num_tiles", "plan_rows", "num_spans", "num_slots", "num_partials"):
            need, room = getattr(self, name), getattr(buffers, name)
            if need > room:
                return f"{name}: needs {need}, the buffers hold {room}"
        return None

    def copy_into(self, buffers: SegmentWork) -> None:
        """Fill a list made by `buffers` with one copy (asynchronous on CUDA).

        Raises:
            ValueError: ``buffers`` is too small or of another shape or tile.
        """
        reason = self.misfit(buffers)
        if reason is not None or buffers._packed is None:
            raise ValueError(f"work list: {reason}")
        padding = np.zeros((buffers.plan_rows - self.plan_rows, ROW_INTS), dtype=np.int32)
        padding[:, 0] = np.arange(self.plan_rows, buffers.plan_rows)
        arrays = self._host()
        arrays["rows"] = np.concatenate([arrays["rows"], padding])
        arrays["counts"] = np.asarray([self.num_tiles, len(arrays["rows"])], dtype=np.int32)
        buffers._packed.fill(arrays)

    def to(self, device: torch.device | str) -> SegmentWork:
        """The same list on a device, brought there in one copy."""
        wanted = torch.device(device)
        if self.counts.device.type == wanted.type and wanted.index in (
            None,
            self.counts.device.index,
        ):
            return self
        moved = SegmentWork.buffers(
            self.shape,
            tile=self.tile,
            max_tiles=self.num_tiles,
            max_rows=self.num_rows,
            max_spans=self.num_spans,
            max_slots=self.num_slots,
            max_partials=self.num_partials,
            device=device,
        )
        assert moved._packed is not None
        moved._packed.fill(self._host())
        return dataclasses.replace(
            moved, plan_rows=self.plan_rows, num_pages=self.num_pages, _packed=None
        )

    def _host(self) -> dict[str, npt.NDArray[np.int32]]:
        names = ("counts", "tiles", "rows", "spans", "slots")
        return {name: getattr(self, name).cpu().numpy() for name in names}


def plan_work(plan: SegmentPlan, shape: WorkShape, *, tile: int | None = None) -> SegmentWork:
    """Cut a plan into work, from its arrays in host memory.

    Args:
        plan: rows and spans.
        shape: what the model's layers have in common.
        tile: pairs per tile, one of ``shape.tiles``; None: by the segment with most rows. Graphs
            recorded for one tile need lists of that tile.

    Returns:
        The list in host memory.

    Raises:
        ValueError: the plan is inconsistent.
    """
    host = plan.host_arrays()
    check_plan(host, shape.page_size)
    spans = Spans(host, shape)
    if tile is None:
        tile = shape.tile(int(spans.rows[spans.in_tiles].max(initial=0)))
    tiles = tile_records(spans, tile)
    tables: dict[str, npt.NDArray[np.int32]] = {
        "tiles": table(tiles, TILE_INTS),
        "rows": table(spans.row_records(), ROW_INTS),
        "spans": table(spans.own_records(), SPAN_INTS),
    }
    counts = np.asarray([len(tables["tiles"]), len(tables["rows"])], dtype=np.int32)
    return SegmentWork(
        shape=shape,
        tile=tile,
        counts=torch.from_numpy(counts),
        slots=torch.from_numpy(spans.slots.astype(np.int32)),
        num_tiles=len(tables["tiles"]),
        num_rows=len(tables["rows"]),
        num_spans=len(tables["spans"]),
        num_slots=len(spans.slots),
        num_partials=int(spans.partials.sum()),
        plan_rows=plan.num_rows,
        num_pages=int(host["page_ids"].max(initial=-1)) + 1,
        tiles=torch.from_numpy(tables["tiles"]),
        rows=torch.from_numpy(tables["rows"]),
        spans=torch.from_numpy(tables["spans"]),
    )
