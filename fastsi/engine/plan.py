"""From the paths that decode and the prefill chunks of a step to the rows of its pass.

All of it is arrays in host memory; the runner brings them to the model's device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fastsi.engine.config import Sharing
from fastsi.engine.prefix_tree import Node
from fastsi.engine.requests import Group, PathState
from fastsi.engine.rows import Int, RowTable

SegmentArrays = Mapping[str, npt.NDArray[np.int32]]


@dataclass(slots=True, eq=False)
class Chunk:
    """Consecutive query tokens that are not a decode row; exactly one of three kinds.

    - ``node``: prompt tokens of a tree node, prefilled for every group below it;
    - ``path``: known tokens of a path, prefilled to resume or to score it;
    - neither: the last prompt token of ``group`` once more, for its logits (nothing is written).
    """

    group: Group
    tokens: Int
    start: int
    """Absolute position of the first token."""
    slots: Int
    """KV slot of each token, -1 writes nothing."""
    node: Node | None = None
    path: PathState | None = None
    draws: list[int] = field(default_factory=list)
    """Table slots of paths that draw their next token from the logits of the last row."""
    scores: list[PathState] = field(default_factory=list)
    """Given continuations whose first token is scored with the logits of the last row."""

    @property
    def order(self) -> tuple[int, int, int]:
        """Place among the rows: a node before everything below it."""
        if self.path is not None:
            return self.path.key_order
        return ((self.node or self.group.leaf).tin, -1, -1)

    def logit_rows(self, first: int) -> range:
        """Row numbers whose logits are needed, for a chunk whose first row is ``first``."""
        end = first + len(self.tokens)
        if self.path is not None and self.path.forced:
            return range(first, end)
        return range(end - 1 if self.draws or self.scores else end, end)


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """The R rows of a pass, of which L need logits."""

    input_ids: Int
    """[R]; -1 where the token was drawn by a step whose results the host has not read."""
    table_slots: Int
    """[R]: the row's slot in the row table, which tells the device its token; 0 in chunks."""
    positions: Int
    """[R], absolute."""
    slots: Int
    """[R]: where keys and values go; -1 nowhere."""
    segments: SegmentArrays
    """Fields of the `SegmentPlan`; those of decode rows come last, in their order."""
    logit_rows: Int
    """[L]: the decode rows, then the chunks' rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One forward pass: a row per active slot of the table, and the chunks."""

    table: RowTable
    chunks: list[Chunk]
    nodes: NodeTable
    """Locked nodes; those without rows are left out of the plan."""
    page_size: int
    """Tokens per page."""
    sharing: Sharing
    """``tree`` makes one segment per node, else every row gets segments of its own."""
    draw_slots: Int
    """Table slots that draw a token: the decode rows, then the chunks' draws. `RowTable.active`
    itself where only those draw."""
    draw_rows: Int
    """For each of them, its row of the logits."""
    chunk_logits: list[range]
    """For each chunk, its rows of the logits."""

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.table.active) + sum(len(chunk.tokens) for chunk in self.chunks)

    @property
    def scores(self) -> bool:
        """Whether given continuations are scored with its logits."""
        return any(c.scores or (c.path is not None and c.path.forced) for c in self.chunks)

    def rows(self, *, spare_pages: int = 0) -> StepRows:
        """The rows in depth-first order and what each attends to, until `Scheduler.advance`.

        Args:
            spare_pages: entries for further pages that the segment of every decode row gets.
        """
        return _build_rows(self, spare_pages)


class NodeTable:
    """The locked nodes of the prefix tree as arrays, until locks or what is filled change."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        """In depth-first order."""

        def column(values: Iterable[int]) -> Int:
            return np.fromiter(values, dtype=np.int64, count=len(nodes))

        self.tin, self.tout = column(n.tin for n in nodes), column(n.tout for n in nodes)
        self.start = column(n.start for n in nodes)
        self.offset = column(n.page_offset for n in nodes)
        self.num_pages = column(len(n.pages) for n in nodes)
        self.filled = column(n.filled for n in nodes)
        """Tokens of each node in the cache."""
        self.first_page = np.cumsum(self.num_pages) - self.num_pages
        self.pages = np.asarray([page for n in nodes for page in n.pages], dtype=np.int32)

        self._last: tuple[Int, Sharing, _Block] | None = None

    def over(self, slots: Int, tin: Int, sharing: Sharing) -> _Block:
        """Segments over the rows of decoding paths alone, kept while the same paths decode.

        Args:
            slots: `RowTable.active`, which is another array whenever it changes.
            tin: of these rows.
            sharing: see `Step`.
        """
        last = self._last
        if last is None or last[0] is not slots or last[1] != sharing:
            last = self._last = slots, sharing, _node_segments(self, [], tin, sharing)
        return last[2]


_Block = tuple[npt.NDArray[np.int32], Int, Int]
"""Pages of some segments, how many each has, and their columns as `_Spans` has them."""


def _block(pages: npt.NDArray[np.int32], num_pages: Int, *columns: Int | int) -> _Block:
    """As many segments as ``num_pages`` has entries; a column may be one number."""
    block = np.empty((len(columns), len(num_pages)), dtype=np.int64)
    for row, values in enumerate(columns):
        block[row] = values
    return pages, num_pages, block


@dataclass(slots=True)
class _Spans:
    """Segments under construction."""

    pages: list[npt.NDArray[np.int32]] = field(default_factory=list)
    num_pages: list[Int] = field(default_factory=list)
    columns: list[Int] = field(default_factory=list)
    """[7, segments]: offset, kv_len, kv_start, row_begin, row_end, causal, per_path."""

    def add(self, block: _Block) -> None:
        """Add segments after those that are there."""
        pages, num_pages, columns = block
        self.pages.append(pages)
        self.num_pages.append(num_pages)
        self.columns.append(columns)

    def finish(self, row_pos: Int) -> SegmentArrays:
        counts = np.concatenate(self.num_pages)
        names = ("page_offset", "kv_len", "kv_start", "row_begin", "row_end", "causal", "per_path")
        arrays = dict(zip(names, np.concatenate(self.columns, axis=1), strict=True)) | {
            "page_indptr": np.concatenate([[0], np.cumsum(counts)]),
            "page_ids": np.concatenate(self.pages),
            "row_pos": row_pos,
        }
        return {name: array.astype(np.int32) for name, array in arrays.items()}


def build_step(
    table: RowTable,
    chunks: list[Chunk],
    nodes: NodeTable,
    *,
    page_size: int,
    sharing: Sharing,
) -> Step:
    """The step that decodes the table's active slots and runs ``chunks``; see `Step`."""
    slots, chunk_logits, at = table.active, [], len(table.active)
    for chunk in chunks:
        count = len(chunk.logit_rows(0))
        chunk_logits.append(range(at, at + count))
        at += count
    draw_slots, draw_rows = slots, np.arange(len(slots))
    drawn = [(s, rows[-1]) for c, rows in zip(chunks, chunk_logits, strict=True) for s in c.draws]
    if drawn:
        more = np.asarray(drawn, dtype=np.int64)
        draw_slots = np.concatenate([slots, more[:, 0]])
        draw_rows = np.concatenate([draw_rows, more[:, 1]])
    return Step(
        table=table,
        chunks=chunks,
        nodes=nodes,
        page_size=page_size,
        sharing=sharing,
        draw_slots=draw_slots,
        draw_rows=draw_rows,
        chunk_logits=chunk_logits,
    )


def _build_rows(step: Step, spare_pages: int) -> StepRows:
    table, chunks, page_size = step.table, step.chunks, step.page_size
    slots = table.active
    suffix = table.num_out[slots] - 1
    at_page = table.pages[slots, suffix // page_size].astype(np.int64)
    sizes = np.asarray([len(chunk.tokens) for chunk in chunks], dtype=np.int64)
    order = _row_order(table, slots, chunks, sizes)

    def rows(decode: Int, parts: list[Int]) -> Int:
        joined = np.concatenate([decode, *parts])
        return joined if order is None else joined[order]

    positions = rows(
        table.prompt_len[slots] + suffix, [c.start + np.arange(len(c.tokens)) for c in chunks]
    )
    tin = rows(table.tin[slots], [np.full(len(c.tokens), c.order[0]) for c in chunks])
    place = np.arange(len(positions)) if order is None else np.argsort(order)
    first_rows = place[len(slots) + np.cumsum(sizes) - sizes] if chunks else sizes
    spans = _Spans()
    if chunks:
        spans.add(_node_segments(step.nodes, chunks, tin, step.sharing))
    else:
        spans.add(step.nodes.over(slots, tin, step.sharing))
    _path_segments(spans, chunks, first_rows, page_size)
    if len(slots):
        _decode_segments(spans, table, suffix, place[: len(slots)], page_size, spare_pages)
    wanted = [place[: len(slots)]]
    for chunk, first in zip(chunks, first_rows, strict=True):
        wanted.append(np.asarray(chunk.logit_rows(int(first)), dtype=np.int64))
    known = table.num_known[slots] == table.num_out[slots]
    return StepRows(
        input_ids=rows(np.where(known, table.last_token[slots], -1), [c.tokens for c in chunks]),
        table_slots=rows(slots, [np.zeros_like(c.tokens) for c in chunks]),
        positions=positions,
        slots=rows(at_page * page_size + suffix % page_size, [c.slots for c in chunks]),
        segments=spans.finish(positions),
        logit_rows=np.concatenate(wanted),
    )


def _row_order(table: RowTable, slots: Int, chunks: list[Chunk], sizes: Int) -> Int | None:
    """Permutation that puts decode rows and chunk rows into depth-first order; None: it is one."""
    if not chunks:
        return None
    keys = np.asarray([chunk.order for chunk in chunks], dtype=np.int64).repeat(sizes, axis=0).T
    decode = np.stack([table.tin[slots], table.request[slots], table.index[slots]])
    tin, request, index = np.concatenate([decode, keys], axis=1)
    return np.lexsort((index, request, tin))


def _node_segments(nodes: NodeTable, chunks: list[Chunk], tin: Int, sharing: Sharing) -> _Block:
    """Topmost first: a segment per node over the rows below it, or one per node and row."""
    filling = {id(c.node): len(c.tokens) for c in chunks if c.node is not None}
    fresh = np.asarray([filling.get(id(node), 0) for node in nodes.nodes] if filling else 0)
    kv_len = nodes.filled + fresh
    causal = np.broadcast_to(fresh > 0, kv_len.shape).astype(np.int64)
    begin = np.searchsorted(tin, nodes.tin, side="left")
    end = np.searchsorted(tin, nodes.tout, side="right")
    copies = np.minimum(end - begin, 1) if sharing == "tree" else end - begin

    def spread(column: Int) -> Int:
        return np.repeat(column, copies)

    num_pages = spread(nodes.num_pages)
    number = _ramp(copies)  # 0, 1, ... over the copies of a node
    first, last = spread(begin) + number, spread(end)
    if sharing != "tree":
        last = first + 1
    pages = nodes.pages[np.repeat(spread(nodes.first_page), num_pages) + _ramp(num_pages)]
    columns = (spread(nodes.offset), spread(kv_len), spread(nodes.start))
    return _block(pages, num_pages, *columns, first, last, spread(causal), 0)


def _ramp(lengths: Int) -> Int:
    """0, 1, ..., n - 1 for each n of ``lengths``, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _path_segments(spans: _Spans, chunks: list[Chunk], first_rows: Int, page_size: int) -> None:
    """The suffixes of paths that are being resumed or scored."""
    for chunk, first in zip(chunks, first_rows, strict=True):
        if chunk.path is None:
            continue
        length, prompt_len = len(chunk.tokens), len(chunk.group.prompt)
        kv_len = chunk.start + length - prompt_len
        pages = np.asarray(chunk.path.pages[: -(-kv_len // page_size)], dtype=np.int32)
        count = np.asarray([len(pages)])
        spans.add(_block(pages, count, 0, kv_len, prompt_len, first, first + length, 1, 1))


def _decode_segments(
    spans: _Spans, table: RowTable, suffix: Int, begin: Int, page_size: int, spare_pages: int
) -> None:
    """What the decoding paths have generated, one segment per row."""
    slots = table.active
    held = suffix // page_size + 1 + spare_pages
    wide = table.pages[slots, : int(held.max())]  # entries not in use are pages too
    if wide.shape[1] < int(held.max()):
        wide = np.pad(wide, ((0, 0), (0, int(held.max()) - wide.shape[1])))
    pages = wide[np.arange(wide.shape[1]) < held[:, None]]
    columns = (0, suffix + 1, table.prompt_len[slots], begin, begin + 1, 0, 1)
    spans.add(_block(pages, held, *columns))
