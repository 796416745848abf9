"""The inputs of a pass in buffers of fixed addresses: filled anew, or moved on by one token.

While the paths of a batch decode, a step differs from the one before it only in that every row is
one token on. The pass itself then leaves its buffers as the next one needs them (`Frame.advance`),
and the host sends what it alone knows: new pages, and which paths are gone (`Frame.follow`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from fastsi import ops
from fastsi.engine.plan import Step, StepRows
from fastsi.engine.rows import Int
from fastsi.engine.sampler import Drawn
from fastsi.engine.staging import Array, FixedArrays, to_device
from fastsi.ops.segment_attention._spans import SPAN_FIELDS
from fastsi.ops.segment_attention.work import SegmentWork

Draws = Literal["behind", "full", "scored"]
"""How a frame draws tokens: not at all, they are drawn behind it; with log-probs that the draw
knows; or with log-probs of the given logits beside it (`Sampler.needs_scores`)."""
SPARE_PAGES = 8
"""Pages that a path may add before its frame must be filled anew."""
_KV_END = SPAN_FIELDS.index("kv_end")


class Key(NamedTuple):
    """Frames of equal keys run the same launches."""

    width: int
    """Rows, padding included."""
    tile: int
    tiles: int
    """Capacity of the work list, which is the size of the largest launch."""
    draws: Draws


@dataclass(slots=True, eq=False)
class _Held:
    """The decoding paths whose next step the buffers hold."""

    owner: Int
    """By row, as all that follows: `RowTable.owner` of the path."""
    num_out: Int
    """Tokens of each path in the step that `Frame.fill` got."""
    room: Int
    """Entries that the plan has for pages of each path."""
    first_page: Int
    """The first of them in the plan's ``page_ids``."""
    alive: Int
    """The rows whose paths are still there."""
    row_of: Int
    """By table slot; -1: none."""
    moved: int = 0
    """Passes since then."""


class Frame:
    """Buffers of one width: rows, plan, work list and settings of draws."""

    def __init__(
        self,
        key: Key,
        plan: ops.SegmentPlan,
        work: SegmentWork,
        *,
        capacity: int,
        device: torch.device,
    ) -> None:
        """With room for twice what the given step needs: lists grow while paths do.

        Args:
            key: sizes of the launches.
            plan: a step to make room for.
            work: its work list.
            capacity: slots of the row table.
            device: where the pass runs.
        """
        self.key, self._capacity, self._device = key, capacity, device
        segments, spans = _room(plan.num_segments), _room(work.num_spans)
        self._plan = ops.SegmentPlan.buffers(
            max_segments=segments,
            max_pages=_room(plan.page_ids.shape[0]),
            max_rows=key.width,
            device=device,
        )
        self._work = SegmentWork.buffers(
            work.shape,
            tile=key.tile,
            max_tiles=key.tiles,
            max_rows=key.width,
            max_spans=spans,
            max_slots=_room(work.num_slots),
            max_partials=_room(work.num_partials),
            device=device,
        )
        self._rows = FixedArrays(self._padding(segments, spans), device)
        self._num_segments = segments
        self._held: _Held | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result: tuple[torch.Tensor, ...] = ()
        """Of the recorded pass."""
        self.uses = 0

    def _padding(self, segments: int, spans: int) -> dict[str, Array]:
        """Values of rows that are not there: they write nothing, and nobody reads what they draw.

        ``moving`` [3, width] holds what grows by one token per step: positions, slots of keys and
        values, positions in the random streams. ``live`` is 1 for rows that do, and
        ``grows_with`` names the row that each segment and each own span grows with.
        """
        width = self.key.width
        rows: dict[str, Array] = {
            name: np.zeros(width, dtype=np.int64) for name in ("ids", "table_slots", "keep")
        }
        rows["moving"] = np.zeros((3, width), dtype=np.int64)
        rows["moving"][1] = -1
        rows["live"] = np.zeros(width + 1, dtype=np.int64)
        rows["grows_with"] = np.full(segments + spans, width)
        rows["draw_slots"] = np.full(width, self._capacity)
        for name in ("draw_rows", "key"):
            rows[name] = np.zeros(width, dtype=np.int64)
        for name, value in (("temperature", 0), ("top_p", 1), ("min_p", 0)):
            rows[name] = np.full(width, value, dtype=np.float32)
        return rows | {
            "top_k": np.zeros(width, dtype=np.int32),
            "plain": np.ones(width, dtype=bool),
        }

    def fits(self, plan: ops.SegmentPlan, work: SegmentWork) -> bool:
        """Whether `fill` has room."""
        return plan.fits(self._plan) and work.misfit(self._work) is None

    def fill(
        self,
        step: Step,
        rows: StepRows,
        plan: ops.SegmentPlan,
        work: SegmentWork,
        settings: Mapping[str, Array],
        last: torch.Tensor,
    ) -> None:
        """Copy a step that fits into the buffers, without waiting for the device.

        Args:
            step: what to run.
            rows: its rows; with `SPARE_PAGES`, if it has no chunks.
            plan: of these rows.
            work: of this plan.
            settings: of `Sampler`, if the frame draws.
            last: `Sampler.last`, for tokens that the host does not know yet.
        """
        count = len(rows.input_ids)
        filled = self._padding(self._num_segments, len(self._work.spans))
        filled["ids"][:count], filled["table_slots"][:count] = rows.input_ids, rows.table_slots
        filled["keep"][: len(rows.logit_rows)] = rows.logit_rows
        moving = filled["moving"]
        moving[0, :count], moving[1, :count] = rows.positions, rows.slots
        if self.key.draws != "behind":
            moving[2, : len(step.draw_slots)] = settings["position"]
            for name in settings.keys() - {"position"}:
                filled[name][: len(step.draw_slots)] = settings[name]
        self._held = None
        if self.key.draws != "behind" and not step.chunks:
            self._hold(step, rows, work, filled)
        self._rows.fill(filled)
        if (rows.input_ids < 0).any():
            ids = self._rows["ids"]
            ids.copy_(torch.where(ids < 0, last[self._rows["table_slots"]], ids))
        plan.copy_into(self._plan)
        work.copy_into(self._work)
        if self._device.type != "cuda":  # backends of a CPU read the plan; it has to be whole
            indptr, used = self._plan.page_indptr, plan.num_segments
            indptr[used + 1 :] = indptr[used]
            indptr[-1] = self._plan.page_ids.shape[0]

    def _hold(
        self, step: Step, rows: StepRows, work: SegmentWork, filled: Mapping[str, Array]
    ) -> None:
        """Prepare for the steps that follow one of decode rows alone."""
        slots, count = step.draw_slots, len(step.draw_slots)
        indptr = rows.segments["page_indptr"].astype(np.int64)[-count - 1 :]
        first_segment = len(rows.segments["kv_len"]) - count
        filled["live"][:count] = 1
        grows = filled["grows_with"]
        grows[first_segment : first_segment + count] = np.arange(count)
        # A row's own spans are listed root first: the last one is what its path has generated.
        row, _, span_end = work.rows.numpy()[:, :3].T.astype(np.int64)
        grows[self._num_segments + span_end - 1] = row
        row_of = np.full(self._capacity, -1)
        row_of[slots] = np.arange(count)
        self._held = _Held(
            owner=step.table.owner[slots],
            num_out=step.table.num_out[slots],
            room=np.diff(indptr),
            first_page=indptr[:-1],
            alive=np.arange(count),
            row_of=row_of,
        )

    def follow(self, step: Step) -> Int | None:
        """Let the buffers hold ``step``, if its rows are paths of the last pass, one token on.

        What the pass could not know goes to the device: pages that paths have added since, and
        rows of paths that are gone, which from now on are padding.

        Returns:
            int64 [D]: the row of each decoding path; None: the frame must be filled.
        """
        held, table = self._held, step.table
        slots = table.active
        if held is None or step.chunks:
            return None
        rows = held.row_of[slots]
        same = (rows >= 0) & (table.owner[slots] == held.owner[rows])
        if not (same & (table.num_out[slots] == held.num_out[rows] + held.moved)).all():
            return None
        suffix = table.num_out[slots] - 1
        number = suffix // step.page_size
        split = self._work.shape.own_split_tokens
        if (number >= held.room[rows]).any() or (suffix % split == 0).any():
            return None  # no entry for the page, or another tile is to be made
        turned = np.flatnonzero(suffix == number * step.page_size)
        if len(turned) or len(rows) < len(held.alive):
            pages = table.pages[slots[turned], number[turned]].astype(np.int64)
            at = held.first_page[rows[turned]] + number[turned]
            self._amend(rows[turned], at, pages, step.page_size, np.setdiff1d(held.alive, rows))
            held.alive = rows
        return rows

    def _amend(self, rows: Int, at: Int, pages: Int, page_size: int, gone: Int) -> None:
        """Put ``pages`` at entries ``at`` of the plan, and take rows ``gone`` out."""
        arrays = {"rows": rows, "at": at, "slots": pages * page_size, "gone": gone}
        sent = to_device(arrays | {"pages": pages.astype(np.int32)}, self._device)
        slots = self._rows["moving"][1]
        if len(rows):
            self._plan.page_ids[sent["at"]] = sent["pages"]
            slots[sent["rows"]] = sent["slots"]
        if len(gone):
            padding = {"live": 0, "draw_slots": self._capacity}
            for name, value in padding.items():
                self._rows[name].index_fill_(0, sent["gone"], value)
            slots.index_fill_(0, sent["gone"], -1)

    def advance(self, token: torch.Tensor, last: torch.Tensor) -> None:
        """Store the tokens drawn [width] in ``last`` (`Sampler.last`), and make the buffers those
        of the next step, as the end of the pass. Recorded."""
        rows = ops.RowBuffers(
            row_pos=self._plan.row_pos,
            kv_len=self._plan.kv_len,
            span_ends=self._work.spans[:, _KV_END],
            **{name: self._rows[name] for name in ("ids", "moving", "live", "grows_with")},
        )
        ops.advance_rows(token, self._rows["draw_slots"], last, rows)

    def passed(self, rows: Int) -> Drawn:
        """Take note of a pass that drew; its tokens, those of the step's paths at ``rows``."""
        if self._held is not None:
            self._held.moved += 1
        _, token, logprob = self.result
        return Drawn(self._rows["draw_slots"], token, logprob, self._rows["draw_rows"], rows)

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Token ids, positions, KV slots, rows whose logits are kept; [width] each."""
        moving = self._rows["moving"]
        return self._rows["ids"], moving[0], moving[1], self._rows["keep"]

    @property
    def settings(self) -> dict[str, torch.Tensor]:
        """What `Sampler.sample` reads, [width] each."""
        same = ("draw_slots", "draw_rows", "plain", "key", "temperature", "top_k", "top_p", "min_p")
        return {name: self._rows[name] for name in same} | {"position": self._rows["moving"][2]}

    @property
    def plan(self) -> ops.SegmentPlan:
        """The plan in the buffers; a new object, so that nothing prepared for another is used."""
        return dataclasses.replace(self._plan, work=self._work)


def power(count: int) -> int:
    """The power of two at or above ``count``."""
    return 1 << max(0, count - 1).bit_length()


def _room(count: int) -> int:
    return max(64, power(2 * count))
