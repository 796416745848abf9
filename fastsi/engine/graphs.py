"""Steps replayed as CUDA graphs: one launch in place of ten per layer.

A graph fixes the memory it reads and the size of every launch. So a step is padded to one of a few
widths, its plan and work list go into buffers of a fixed capacity, and a `Frame` per (width, tile,
capacity) is recorded when it is used for the second time. Padding rows write no keys, attend to
nothing and are read by nobody; programs beyond the list's end return at once.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from fastsi import ops
from fastsi.engine.attention import StepContext
from fastsi.engine.fused_decoder import FusedDecoder
from fastsi.engine.kv_pool import KVPool
from fastsi.engine.plan import SegmentArrays, Step
from fastsi.ops.segment_attention.work import SegmentWork, WorkShape, plan_work

_WIDTHS = (8, 16, 32, 64, 96, 128, 192, 256)
_WIDER = 128
"""Beyond the last of them, in steps of this many rows."""
_LEAST_TILES = 64
_ROWS = ("ids", "table slots", "positions", "slots", "logit rows")


def widths(max_rows: int) -> tuple[int, ...]:
    """Row counts to record for steps of up to ``max_rows`` rows, ascending.

    Within a third of each other, since padding rows cost their share of the arithmetic.
    """
    most = -(-max_rows // _WIDTHS[0]) * _WIDTHS[0]
    wider = range(_WIDTHS[-1] + _WIDER, most, _WIDER)
    return (*(width for width in (*_WIDTHS, *wider) if width < most), most)


class _Key(NamedTuple):
    width: int
    tile: int
    tiles: int
    """Capacity of the work list, which is the size of the largest launch."""


class Frame:
    """Fixed buffers for the inputs of a step."""

    def __init__(
        self, key: _Key, plan: ops.SegmentPlan, work: SegmentWork, device: torch.device
    ) -> None:
        """With room for twice what the given step needs: lists grow while paths do."""
        self._key = key
        self._rows = torch.zeros(len(_ROWS), key.width, dtype=torch.int64, device=device)
        self._plan = ops.SegmentPlan.buffers(
            max_segments=_room(plan.num_segments),
            max_pages=_room(plan.page_ids.shape[0]),
            max_rows=key.width,
            device=device,
        )
        self._work = SegmentWork.buffers(
            work.shape,
            tile=key.tile,
            max_tiles=key.tiles,
            max_rows=key.width,
            max_spans=_room(work.num_spans),
            max_slots=_room(work.num_slots),
            max_partials=_room(work.num_partials),
            device=device,
        )
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result: torch.Tensor | None = None
        self.uses = 0

    def fits(self, plan: ops.SegmentPlan, work: SegmentWork) -> bool:
        """Whether `fill` has room."""
        return plan.fits(self._plan) and work.misfit(self._work) is None

    def fill(self, step: Step, plan: ops.SegmentPlan, work: SegmentWork) -> None:
        """Copy a step that fits into the buffers, without waiting for the device."""
        host = torch.zeros(self._rows.shape, dtype=torch.int64, pin_memory=self._rows.is_cuda)
        rows, count = host.numpy(), len(step.input_ids)
        rows[3] = -1
        rows[:4, :count] = step.input_ids, step.table_slots, step.positions, step.slots
        rows[4, : len(step.logit_rows)] = step.logit_rows
        self._rows.copy_(host, non_blocking=True)
        plan.copy_into(self._plan)
        work.copy_into(self._work)
        if not self._rows.is_cuda:  # backends of a CPU read the plan, and it has to be whole
            indptr, used = self._plan.page_indptr, plan.num_segments
            indptr[used + 1 :] = indptr[used]
            indptr[-1] = self._plan.page_ids.shape[0]

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """[width] each, as `_ROWS` names them."""
        return tuple(self._rows)

    @property
    def plan(self) -> ops.SegmentPlan:
        """The plan in the buffers; a new object, so that nothing prepared for another is used."""
        return dataclasses.replace(self._plan, work=self._work)


class DecodeGraphs:
    """The frames of one decoder, and their replay."""

    def __init__(
        self,
        decoder: FusedDecoder,
        pool: KVPool,
        drawn: torch.Tensor,
        shape: WorkShape,
        *,
        max_rows: int,
        capture: bool,
    ) -> None:
        """Record nothing yet.

        Args:
            decoder: the pass; its layers are alike.
            pool: keys and values.
            drawn: int64 [table slots], the token last drawn in each.
            shape: of the work lists, the same for all layers.
            max_rows: most rows of a step that is replayed.
            capture: record graphs; else frames are run op by op, on any device.
        """
        assert decoder.alike
        self.decoder, self._pool, self._drawn = decoder, pool, drawn
        self._widths, self._capture, self._shape = widths(max_rows), capture, shape
        self._frames: dict[_Key, Frame] = {}
        self._version = decoder.version
        self._buffers = decoder.reserve(self._widths[-1])
        self._memory: Any = None
        """Handle of the graphs' memory."""
        self.num_captured = self.num_replayed = 0

    def forward(self, step: Step) -> torch.Tensor | None:
        """Logits [L, vocab] of a step, valid until the next call; None: it has too many rows."""
        if len(step.input_ids) > self._widths[-1]:
            return None
        if self.decoder.version != self._version:
            self._wait()
            self._frames.clear()
            self._version = self.decoder.version
        plan = host_plan(step.segments)
        work = plan_work(plan, self._shape)
        width = next(width for width in self._widths if width >= len(step.input_ids))
        key = _Key(width, work.tile, max(_LEAST_TILES, _power(work.num_tiles)))
        frame = self._frames.get(key)
        if frame is None or not frame.fits(plan, work):
            self._wait()
            frame = self._frames[key] = Frame(key, plan, work, self._drawn.device)
        frame.fill(step, plan, work)
        return self._run(frame)[: len(step.logit_rows)]

    def _wait(self) -> None:
        """Graphs are given up only when the device has done with them."""
        if self.num_captured:
            torch.cuda.synchronize(self._drawn.device)

    def _run(self, frame: Frame) -> torch.Tensor:
        frame.uses += 1
        if not self._capture or frame.uses == 1:  # the first run compiles what is missing
            return self._pass(frame)
        if frame.graph is None or frame.result is None:
            self._record(frame)
        assert frame.graph is not None
        assert frame.result is not None
        frame.graph.replay()
        self.num_replayed += 1
        return frame.result

    def _record(self, frame: Frame) -> None:
        """Graphs share their memory: one is replayed after the other, and results are read then."""
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            frame.result = self._pass(frame)
        frame.graph = graph
        self.num_captured += 1

    def _pass(self, frame: Frame) -> torch.Tensor:
        ids, table_slots, positions, slots, keep = frame.inputs
        tokens = torch.where(ids < 0, self._drawn[table_slots], ids)
        context = StepContext.over(self._pool, slots, frame.plan)
        return self.decoder.forward(tokens, positions, context, keep, buffers=self._buffers)


def _power(count: int) -> int:
    """The power of two at or above ``count``."""
    return 1 << max(0, count - 1).bit_length()


def _room(count: int) -> int:
    return max(64, _power(2 * count))


def host_plan(segments: SegmentArrays) -> ops.SegmentPlan:
    """The plan over a step's arrays themselves."""
    fields: dict[str, Any] = {name: torch.from_numpy(array) for name, array in segments.items()}
    return ops.SegmentPlan(**fields, host=segments)
