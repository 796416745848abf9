"""Steps replayed as CUDA graphs: one launch in place of ten per layer, draws included.

A graph fixes the memory it reads and the size of every launch. So a step is padded to one of a few
widths, its rows, plan, work list and settings of draws go into the buffers of a `Frame`, and a
graph per `frames.Key` is recorded when it is used for the second time. Padding rows write no keys,
attend to nothing and are read by nobody; programs beyond the list's end return at once.

A step of the last one's paths finds its inputs in the buffers already, its tokens among them: the
host sends nothing and plans nothing. Draws run behind the graph where bias or penalties need the
host at every token, and where a step draws more tokens than its frame has rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastsi.engine.attention import StepContext, host_plan
from fastsi.engine.frames import SPARE_PAGES, Draws, Frame, Key, power
from fastsi.engine.fused_decoder import FusedDecoder
from fastsi.engine.kv_pool import KVPool
from fastsi.engine.plan import Step
from fastsi.engine.sampler import Drawn, Sampler
from fastsi.engine.staging import Array
from fastsi.ops.segment_attention.work import WorkShape, plan_work

_WIDTHS = (8, 16, 32, 64, 96, 128, 192, 256)
_WIDER = 128
"""Beyond the last of them, in steps of this many rows."""
_LEAST_TILES = 64


def widths(max_rows: int) -> tuple[int, ...]:
    """Row counts to record for steps of up to ``max_rows`` rows, ascending.

    Within a third of each other, since padding rows cost their share of the arithmetic.
    """
    most = -(-max_rows // _WIDTHS[0]) * _WIDTHS[0]
    wider = range(_WIDTHS[-1] + _WIDER, most, _WIDER)
    return (*(width for width in (*_WIDTHS, *wider) if width < most), most)


class DecodeGraphs:
    """The frames of one decoder, and their replay."""

    def __init__(
        self,
        decoder: FusedDecoder,
        pool: KVPool,
        sampler: Sampler,
        shape: WorkShape,
        *,
        max_rows: int,
        capture: bool,
    ) -> None:
        """Record nothing yet.

        Args:
            decoder: the pass; its layers are alike.
            pool: keys and values.
            sampler: draws, and holds the tokens drawn last.
            shape: of the work lists, the same for all layers.
            max_rows: most rows of a step that is replayed.
            capture: record graphs; else frames are run op by op, on any device.
        """
        assert decoder.alike
        self.decoder, self._pool, self._sampler = decoder, pool, sampler
        self._widths, self._capture, self._shape = widths(max_rows), capture, shape
        self._frames: dict[Key, Frame] = {}
        self._current: Frame | None = None
        """The frame of the last step."""
        self._version = decoder.version
        self._buffers = decoder.reserve(self._widths[-1])
        self._memory: Any = None
        """Handle of the graphs' memory."""
        self.num_captured = self.num_replayed = self.num_followed = 0

    def forward(self, step: Step) -> tuple[torch.Tensor, Drawn | None] | None:
        """Run a step; None: it has too many rows.

        Returns:
            Logits, valid until the next call, of the step's L rows and of padding, and the tokens;
            None: they are still to be drawn.
        """
        if step.num_rows > self._widths[-1]:
            return None
        if self.decoder.version != self._version:
            self._wait()
            self._frames.clear()
            self._current, self._version = None, self.decoder.version
        frame, rows = self._current, None
        width = self._width(step.num_rows)
        if frame is not None and frame.key.width == width:
            rows = frame.follow(step)
        if frame is None or rows is None:
            frame = self._current = self._filled(step, width)
            rows = np.arange(len(step.draw_slots))
        else:
            self.num_followed += 1
        self._run(frame)
        logits = frame.result[0]
        return logits, None if frame.key.draws == "behind" else frame.passed(rows)

    def _width(self, rows: int) -> int:
        return next(width for width in self._widths if width >= rows)

    def _filled(self, step: Step, width: int) -> Frame:
        """A frame that holds a step, made where there is none with room."""
        rows = step.rows(spare_pages=0 if step.chunks else SPARE_PAGES)
        plan = host_plan(rows.segments)
        work = plan_work(plan, self._shape)
        draws, settings = self._draws(step, width)
        key = Key(width, work.tile, max(_LEAST_TILES, power(work.num_tiles)), draws)
        frame = self._frames.get(key)
        if frame is None or not frame.fits(plan, work):
            self._wait()
            capacity, device = step.table.capacity, self._sampler.last.device
            frame = self._frames[key] = Frame(key, plan, work, capacity=capacity, device=device)
        frame.fill(step, rows, plan, work, settings, self._sampler.last)
        return frame

    def _draws(self, step: Step, width: int) -> tuple[Draws, dict[str, Array]]:
        """How the step's tokens are drawn, and their settings."""
        slots, table = step.draw_slots, step.table
        if not 0 < len(slots) <= width or table.adjusted[slots].any():
            return "behind", {}
        settings = self._sampler.settings(table, slots, step.draw_rows)
        return "scored" if self._sampler.needs_scores(settings) else "full", settings

    def _wait(self) -> None:
        """Graphs are given up only when the device has done with them."""
        if self.num_captured:
            torch.cuda.synchronize(self._sampler.last.device)

    def _run(self, frame: Frame) -> None:
        frame.uses += 1
        if not self._capture or frame.uses == 1:  # the first run compiles what is missing
            frame.result = self._pass(frame)
            return
        if frame.graph is None:
            self._record(frame)
        assert frame.graph is not None
        frame.graph.replay()
        self.num_replayed += 1

    def _record(self, frame: Frame) -> None:
        """Graphs share their memory: one is replayed after the other, and results are read then."""
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            frame.result = self._pass(frame)
        frame.graph = graph
        self.num_captured += 1

    def _pass(self, frame: Frame) -> tuple[torch.Tensor, ...]:
        """Logits [width, vocab]; tokens and log-probs [width], if the frame draws."""
        ids, positions, slots, keep = frame.inputs
        context = StepContext.over(self._pool, slots, frame.plan)
        logits = self.decoder.forward(ids, positions, context, keep, buffers=self._buffers)
        if frame.key.draws == "behind":
            return (logits,)
        scored = frame.key.draws == "scored"
        token, logprob = self._sampler.sample(logits, frame.settings, scored=scored)
        frame.advance(token, self._sampler.last)
        return logits, token, logprob
