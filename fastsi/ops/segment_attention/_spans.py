"""From the segments of a plan to the records of its work list, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastsi.ops.segment_attention.plan import Host

if TYPE_CHECKING:
    from fastsi.ops.segment_attention.work import WorkShape

Int = npt.NDArray[np.int64]

TILE_FIELDS = (
    "page_begin",  # index into plan.page_ids of the segment's first page
    "page_offset",
    "kv_begin",  # tokens [kv_begin, kv_end) of the segment
    "kv_end",
    "kv_start",
    "causal",
    "row_begin",
    "pair_begin",  # pairs [pair_begin, pair_end) of the segment; pair p is row p // group
    "pair_end",
    "slot_begin",  # index into slots of the segment's first row; -1: the tile writes the result
    "split",  # added to a row's slot; partial results of a row stand side by side
)
ROW_FIELDS = ("row", "span_begin", "span_end", "partial_begin", "partial_end")
SPAN_FIELDS = ("page_begin", "page_offset", "kv_begin", "kv_end", "kv_start", "causal")
TILE_INTS, ROW_INTS, SPAN_INTS = 16, 8, 8
"""Integers per record, unused ones included: records start at aligned addresses."""
SPLIT_ALIGN = 128
"""Splits are whole numbers of any kernel's token blocks."""


def check_plan(host: Host, page_size: int) -> None:
    """Refuse a plan whose segments point outside its own rows or pages."""
    owned = np.diff(host["page_indptr"]).astype(np.int64)
    begin, end, length = host["row_begin"], host["row_end"], host["kv_len"]
    needed = -(-(host["page_offset"].astype(np.int64) + length) // page_size)
    faults = {
        "kv_len: is negative": length < 0,
        "page_offset: is outside the first page": (host["page_offset"] < 0)
        | (host["page_offset"] >= page_size),
        "kv_len: needs more pages than the segment owns": (needed > owned) & (length > 0),
        "rows: do not lie in the plan": (begin < 0) | (begin > end) | (end > len(host["row_pos"])),
        "page_indptr: descends": owned < 0,
    }
    for message, wrong in faults.items():
        if wrong.any():
            raise ValueError(f"plan: segment {int(wrong.argmax())}, {message}")
    ids = host["page_ids"]
    if ids.min(initial=0) < 0:
        raise ValueError(f"plan.page_ids: holds {ids.min()}, must be 0 or more")
    if int(host["page_indptr"][0]) != 0 or int(host["page_indptr"][-1]) > len(ids):
        raise ValueError(f"plan.page_indptr: must go from 0 to at most {len(ids)}")


class Spans:
    """Segments that hold rows and tokens, and what becomes of each; arrays over them."""

    def __init__(self, host: Host, shape: WorkShape) -> None:
        live = np.flatnonzero((host["row_end"] > host["row_begin"]) & (host["kv_len"] > 0))
        self.shape = shape
        self.num_rows = len(host["row_pos"])

        def column(name: str) -> Int:
            return host[name][live].astype(np.int64)

        self.page_begin, self.page_offset = column("page_indptr"), column("page_offset")
        self.length, self.kv_start = column("kv_len"), column("kv_start")
        self.begin, self.causal = column("row_begin"), column("causal")
        self.rows = column("row_end") - self.begin
        own = (column("per_path") != 0) & (shape.deterministic | (self.causal == 0))
        if not shape.deterministic:
            own |= self.length < shape.min_shared_tokens
        self.size = np.where(own, shape.own_split_tokens, self._shared_split())
        hidden = self._hidden(host["row_pos"].astype(np.int64))
        splits = -(-self.length // self.size)
        self.first = hidden // self.size
        """First split that some row sees."""
        self.splits = np.maximum(splits - own - self.first, 0)
        """Splits in tiles; the last one of an own span is its rows' work."""
        self.in_tiles = self.splits > 0
        self.own = own & (hidden < self.length)
        self.own_begin = (splits - 1) * self.size
        self._count()

    def _shared_split(self) -> Int:
        shape = self.shape
        if shape.deterministic:
            return np.full_like(self.length, shape.split_tokens)
        grown = np.sqrt(self.length * float(shape.split_growth))
        aligned = np.ceil(grown / SPLIT_ALIGN).astype(np.int64) * SPLIT_ALIGN
        size: Int = np.maximum(aligned, shape.split_tokens)
        longer = (self.causal != 0) & (size < shape.causal_split_tokens)
        size[longer] = shape.causal_split_tokens
        return size

    def _hidden(self, row_pos: Int) -> Int:
        """Tokens at the start of each span that no row sees through the window."""
        if self.shape.window is None or not len(self.length):
            return np.zeros_like(self.length)
        edges = np.stack([self.begin, self.begin + self.rows], axis=1).ravel()
        earliest: Int = np.minimum.reduceat(np.append(row_pos, 0), edges)[::2]
        seen_from: Int = earliest - self.shape.window + 1 - self.kv_start
        hidden: Int = np.minimum(np.maximum(seen_from, 0), self.length)
        return hidden

    def _pairs(self, chosen: npt.NDArray[np.bool_]) -> tuple[Int, Int]:
        """(segment, row) of every row of the chosen segments, segment after segment."""
        segment = np.repeat(np.flatnonzero(chosen), self.rows[chosen])
        return segment, self.begin[segment] + ramp(self.rows[chosen])

    def _count(self) -> None:
        """Partial results and own spans of every row, and the slots of partial results."""
        segment, row = self._pairs(self.in_tiles)
        count = self.splits[segment]
        partials = np.bincount(row, count, minlength=self.num_rows).astype(np.int64)
        self.own_pair = self._pairs(self.own)
        own = np.bincount(self.own_pair[1], minlength=self.num_rows)
        alone = (partials == 1) & (own == 0)
        chained = np.bincount(segment, ~alone[row], minlength=len(self.length)) > 0
        self.direct = self.in_tiles & ~chained
        """One tile per row holds all that the rows see: it writes the result."""
        written = np.zeros(self.num_rows, dtype=bool)
        written[row[self.direct[segment]]] = True
        count[written[row]] = 0
        order = np.argsort(row, kind="stable")
        self.slots = np.empty_like(row)
        self.slots[order] = np.cumsum(count[order]) - count[order]
        self.partials = np.where(written, 0, partials)
        self.finished = np.flatnonzero(~written)
        """Rows of the second kernel."""
        self.own_count = own

    def row_records(self) -> list[Int]:
        """Columns `ROW_FIELDS`; rows with most own tokens first."""
        segment, row = self.own_pair
        length = (self.length - self.own_begin)[segment]
        tokens = np.bincount(row, length, minlength=self.num_rows)
        rows = self.finished[np.argsort(-tokens[self.finished], kind="stable")]
        span_end, partial_end = np.cumsum(self.own_count), np.cumsum(self.partials)
        return [
            rows,
            (span_end - self.own_count)[rows],
            span_end[rows],
            (partial_end - self.partials)[rows],
            partial_end[rows],
        ]

    def own_records(self) -> list[Int]:
        """Columns `SPAN_FIELDS`, row after row."""
        segment, row = self.own_pair
        s = segment[np.argsort(row, kind="stable")]
        page = (self.page_begin[s], self.page_offset[s])
        return [*page, self.own_begin[s], self.length[s], self.kv_start[s], self.causal[s]]


def tile_records(spans: Spans, tile: int) -> list[Int]:
    """Columns `TILE_FIELDS`; tiles of one split side by side, since they read the same tokens."""
    segments = np.flatnonzero(spans.in_tiles)
    pairs = spans.rows[segments] * spans.shape.group
    blocks = -(-pairs // tile)
    number = spans.splits[segments] * blocks
    at = np.repeat(np.arange(len(segments)), number)
    s, split, block = segments[at], ramp(number) // blocks[at], ramp(number) % blocks[at]
    kv_begin = (spans.first[s] + split) * spans.size[s]
    kv_end = np.minimum(kv_begin + spans.size[s], spans.length[s])
    slot_begin = np.cumsum(spans.rows[segments]) - spans.rows[segments]
    columns = [
        spans.page_begin[s],
        spans.page_offset[s],
        kv_begin,
        kv_end,
        spans.kv_start[s],
        spans.causal[s],
        spans.begin[s],
        block * tile,
        pairs[at],
        np.where(spans.direct[s], -1, slot_begin[at]),
        split,
    ]
    order = np.argsort(kv_begin - kv_end, kind="stable")
    return [column[order] for column in columns]


def ramp(lengths: Int) -> Int:
    """0, 1, ..., n - 1 for each n of ``lengths``, one after the other."""
    begin = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(begin, lengths)


def table(columns: list[Int], width: int) -> npt.NDArray[np.int32]:
    table = np.zeros((len(columns[0]), width), dtype=np.int32)
    for number, column in enumerate(columns):
        table[:, number] = column
    return table
