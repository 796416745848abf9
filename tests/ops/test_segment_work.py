"""Work lists of segment_attention: against brute force, capacities, and the promises on bits."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.ops import SegmentPlan, segment_attention
from fastsi.ops._registry import TABLE
from fastsi.ops._triton_variants import SHARED_BYTES
from fastsi.ops.segment_attention._spans import SPLIT_ALIGN
from fastsi.ops.segment_attention.work import SegmentWork, WorkShape, plan_work
from tests.ops.support import Tensors, device_of, integers, qkv, random_tree, running

SMALL = WorkShape(
    q_heads=6,
    kv_heads=2,
    head_dim=16,
    page_size=16,
    tiles=(16, 64),
    split_tokens=128,
    causal_split_tokens=256,
    own_split_tokens=128,
)
CAPACITY = {"max_tiles": 90, "max_spans": 70, "max_slots": 200, "max_partials": 250}


def seen_by_rows(work: SegmentWork, rows: int) -> list[list[tuple[int, ...]]]:
    """What every row reads, in order: (page_begin, kv_begin, kv_end), from the records alone."""
    partial: dict[int, tuple[int, ...]] = {}
    direct: dict[int, list[tuple[int, ...]]] = {}
    group = work.shape.group
    pairs: dict[tuple[int, ...], set[int]] = {}
    for record in work.tiles.tolist()[: int(work.counts[0])]:
        page, _, kv_begin, kv_end, _, _, row_begin, first, last, slot_begin, split = record[:11]
        for pair in range(first, min(first + work.tile, last)):
            row = row_begin + pair // group
            span = (page, kv_begin, kv_end)
            pairs.setdefault((row, *span), set()).add(pair % group)
            if slot_begin < 0:
                direct[row] = [span]
                continue
            slot = int(work.slots[slot_begin + pair // group]) + split
            assert partial.setdefault(slot, (row, *span)) == (row, *span)
    assert all(len(heads) == group for heads in pairs.values())
    found: list[list[tuple[int, ...]]] = [direct.get(row, []) for row in range(rows)]
    finished = work.rows.tolist()[: int(work.counts[1])]
    for row, span_begin, span_end, partial_begin, partial_end, *_ in finished:
        assert row not in direct
        for slot in range(partial_begin, partial_end):
            assert partial[slot][0] == row
            found[row].append(partial[slot][1:])
        for span in work.spans.tolist()[span_begin:span_end]:
            found[row].append((span[0], span[2], span[3]))
    assert sorted([*direct, *(record[0] for record in finished)]) == list(range(rows))
    assert len(partial) == work.num_partials
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_row_reads_its_own_spans_once(data: st.DataObject) -> None:
    """Brute force: for each row, the pieces of a segment lie end to end and cover what it holds."""
    tree = random_tree(
        lambda low, high: data.draw(st.integers(low, high)), page_size=16, longest=600
    )
    plan = tree.plan()
    shape = dataclasses.replace(
        SMALL,
        min_shared_tokens=data.draw(st.sampled_from([0, 32, 700])),
        deterministic=data.draw(st.booleans()),
        window=data.draw(st.none() | st.integers(1, 900)),
        split_growth=data.draw(st.sampled_from([0, 64, 600])),
    )
    work = plan_work(plan, shape, tile=data.draw(st.sampled_from([None, 16, 64])))
    found = seen_by_rows(work, plan.num_rows)
    host = plan.host_arrays()
    for row, pieces in enumerate(found):
        holds = (host["row_begin"] <= row) & (row < host["row_end"]) & (host["kv_len"] > 0)
        by_segment = {int(host["page_indptr"][s]): int(s) for s in np.flatnonzero(holds)}
        assert {page for page, _, _ in pieces} <= set(by_segment)
        for page, s in by_segment.items():
            mine = sorted((begin, end) for p, begin, end in pieces if p == page)
            hidden = 0
            if shape.window is not None:
                hidden = int(host["row_pos"][row] - shape.window + 1 - host["kv_start"][s])
            if not mine:
                assert hidden >= host["kv_len"][s]
                continue
            assert mine[0][0] <= max(hidden, 0)
            assert mine[-1][1] == host["kv_len"][s]
            for (_, end), (begin, _) in itertools.pairwise(mine):
                assert end == begin
                assert begin % SPLIT_ALIGN == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_rows_pieces_do_not_depend_on_other_rows(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tree = random_tree(integers(generator), page_size=16, longest=500)
    shape = dataclasses.replace(SMALL, split_growth=100)
    whole = seen_by_rows(plan_work(tree.plan(), shape), len(tree.paths))
    for path in range(len(tree.paths)):
        plan = tree.plan([path])
        alone = seen_by_rows(plan_work(plan, shape), 1)[0]
        assert [piece[1:] for piece in alone] == [piece[1:] for piece in whole[path]]


def test_longest_work_comes_first_and_tiles_follow_rows() -> None:
    plan = SegmentPlan.from_lists(
        pages=[list(range(4)), list(range(4, 40)), [40], [41]],
        page_offset=[0, 0, 0, 0],
        kv_len=[60, 570, 5, 9],
        kv_start=[0, 0, 630, 630],
        rows=[(0, 2), (0, 30), (0, 1), (1, 2)],
        causal=[False] * 4,
        row_pos=[640] * 30,
        per_path=[False, False, True, True],
    )
    work = plan_work(plan, SMALL)
    assert work.tile == 64
    assert plan_work(plan, dataclasses.replace(SMALL, deterministic=True), tile=16).tile == 16
    length = (work.tiles[:, 3] - work.tiles[:, 2]).tolist()
    assert length == sorted(length, reverse=True)
    assert length.count(128) == 2 * 4  # 30 rows x 3 heads are two tiles
    assert work.rows[:2, 0].tolist() == [1, 0]  # 9 own tokens before 5
    assert SMALL.tile(5) == 16
    assert SMALL.tile(6) == 64
    assert SMALL.tile(1000) == 64


def test_buffers_refuse_what_does_not_fit() -> None:
    tree = random_tree(integers(torch.Generator().manual_seed(4)), page_size=16)
    plan = tree.plan()
    work = plan_work(plan, SMALL)
    rows = plan.num_rows
    buffers = SegmentWork.buffers(SMALL, tile=work.tile, max_rows=rows, device="cpu", **CAPACITY)
    assert work.misfit(buffers) is None
    for name, value in [("num_tiles", 1), ("num_spans", 1), ("num_slots", 1), ("num_partials", 1)]:
        small = dataclasses.replace(buffers, **{name: value})
        assert name in str(work.misfit(small))
        with pytest.raises(ValueError, match=name):
            work.copy_into(small)
    with pytest.raises(ValueError, match="plan_rows"):
        work.copy_into(dataclasses.replace(buffers, plan_rows=rows - 1))
    with pytest.raises(ValueError, match="other ones"):
        work.copy_into(dataclasses.replace(buffers, tile=128))
    with pytest.raises(ValueError, match=r"must come from SegmentWork\.buffers"):
        work.copy_into(work)
    room = SegmentPlan.buffers(max_segments=3, max_pages=900, max_rows=rows, device="cpu")
    assert not plan.fits(room)
    with pytest.raises(ValueError, match=f"page_indptr: needs {plan.num_segments + 1}"):
        plan.copy_into(room)
    with pytest.raises(ValueError, match=r"must come from SegmentPlan\.buffers"):
        SegmentPlan.from_lists(
            pages=[], page_offset=[], kv_len=[], kv_start=[], rows=[], causal=[], row_pos=[]
        ).copy_into(dataclasses.replace(plan, _packed=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_len": [8]}, "needs more pages"),
        ({"kv_len": [-1]}, "kv_len: is negative"),
        ({"pages": [[0, -1]]}, "page_ids"),
        ({"page_offset": [4]}, "page_offset"),
        ({"rows": [(0, 3)]}, "rows"),
        ({"rows": [(2, 1)]}, "rows"),
    ],
)
def test_bad_plans_are_refused(change: dict[str, object], message: str) -> None:
    good = {
        "pages": [[0, 1]],
        "page_offset": [1],
        "kv_len": [7],
        "kv_start": [0],
        "rows": [(0, 2)],
        "causal": [False],
        "row_pos": [7, 7],
    }
    shape = dataclasses.replace(SMALL, page_size=4)
    plan_work(SegmentPlan.from_lists(**good), shape)
    with pytest.raises(ValueError, match=message):
        plan_work(SegmentPlan.from_lists(**(good | change)), shape)


def test_bad_shapes_are_refused() -> None:
    for change, message in [
        ({"kv_heads": 4}, "q_heads=6"),
        ({"split_tokens": 100}, "split_tokens=100"),
        ({"own_split_tokens": 0}, "own_split_tokens=0"),
        ({"tiles": (64, 16)}, "tiles="),
        ({"tiles": (24,)}, "tiles="),
        ({"tiles": ()}, "tiles="),
    ]:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMALL, **change)


def attend(
    plan: SegmentPlan, tensors: Tensors, work: SegmentWork | None, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the Triton backend with a work list of its own or a given one."""
    device = device_of("triton")
    with running("triton") as backend:
        moved = dataclasses.replace(plan.to(device), work=work and work.to(device))
        q, k, v = (tensor.to(device) for tensor in tensors)
        out, lse = segment_attention(q, k, v, moved, backend=backend, **options)
    return out.cpu(), lse.cpu()


def shared_plan(prefix: int, suffixes: list[int], *, causal: bool = False) -> SegmentPlan:
    """Paths with suffixes of their own behind one prefix that starts inside a page."""
    pages, at = [], 0
    for length in (prefix + 5, *suffixes):
        count = -(-length // 16)
        pages.append(list(range(at, at + count)))
        at += count
    rows = len(suffixes)
    return SegmentPlan.from_lists(
        pages=pages,
        page_offset=[5] + [0] * rows,
        kv_len=[prefix, *suffixes],
        kv_start=[0] + [prefix] * rows,
        rows=[(0, rows)] + [(row, row + 1) for row in range(rows)],
        causal=[causal] + [False] * rows,
        row_pos=[prefix + length - 1 for length in suffixes],
        per_path=[False] + [True] * rows,
    )


def tensors_of(plan: SegmentPlan, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    pages = int(plan.page_ids.max()) + 1
    return qkv(plan, heads=(6, 2), head_dim=16, page_size=16, pages=pages, seed=3, dtype=dtype)


TRITON = pytest.mark.skipif(
    not any(row.backend == "triton" and row.op == "segment_attention" for row in TABLE),
    reason="no Triton backend",
)


@TRITON
@pytest.mark.parametrize("window", [None, 150])
@pytest.mark.parametrize(
    "change",
    [
        {"min_shared_tokens": 0},
        {"min_shared_tokens": 10_000},
        {"deterministic": True},
        {"split_growth": 600},
        {"tiles": (16,)},
    ],
    ids=str,
)
def test_every_way_to_cut_the_work_is_right(change: dict[str, object], window: int | None) -> None:
    """Shared spans in tiles or folded into rows, own spans whole or split: one result."""
    plan = shared_plan(300, [1, 140, 33, 270])
    tensors = tensors_of(plan, torch.float32)
    shape = dataclasses.replace(SMALL, window=window, **change)
    work = plan_work(plan, shape)
    expected = segment_attention(*tensors, plan, window=window, backend="reference")
    got = attend(plan, tensors, work, window=window)
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)
    # Each branch ran: own spans of more than 128 tokens are split, prefixes are where they belong.
    assert (work.tiles[:, 0] > 0).any()
    assert work.num_spans == (8 if change.get("min_shared_tokens") == 10_000 else 4)


@TRITON
def test_fixed_buffers_give_the_same_bits() -> None:
    """A grid and arrays of larger capacity, filled again with another plan; padding rows are 0."""
    device = device_of("triton")
    capacity = CAPACITY | {"max_rows": 6}
    tile = 16
    buffers = SegmentWork.buffers(SMALL, tile=tile, device=device, **capacity)
    room = SegmentPlan.buffers(max_segments=9, max_pages=90, max_rows=6, device=device)
    held = dataclasses.replace(room, work=buffers)
    for suffixes in ([1, 140, 33], [20, 7, 9, 128, 129]):
        plan = shared_plan(300, suffixes)
        q, k, v = tensors_of(plan)
        work = plan_work(plan, SMALL, tile=tile)
        expected = attend(plan, (q, k, v), work)
        plan.copy_into(room)
        work.copy_into(buffers)
        padded = torch.cat([q, q.new_ones(6 - len(q), 6, 16)]).to(device)
        with running("triton") as backend:
            out, lse = segment_attention(padded, k.to(device), v.to(device), held, backend=backend)
        assert torch.equal(out[: len(q)].cpu(), expected[0])
        assert torch.equal(lse[: len(q)].cpu(), expected[1])
        assert (out[len(q) :] == 0).all()
        assert (lse[len(q) :] == -torch.inf).all()


@TRITON
@pytest.mark.parametrize("deterministic", [False, True])
def test_bits_do_not_depend_on_other_rows(deterministic: bool) -> None:
    plan = shared_plan(300, [1, 140, 33, 130])
    q, k, v = tensors_of(plan)
    shape = dataclasses.replace(SMALL, deterministic=deterministic, tiles=(16,), split_growth=64)
    out, lse = attend(plan, (q, k, v), plan_work(plan, shape))
    host = plan.host_arrays()
    for row in range(4):
        segments = [0, row + 1]
        indptr = host["page_indptr"]
        alone = SegmentPlan.from_lists(
            pages=[host["page_ids"][indptr[s] : indptr[s + 1]].tolist() for s in segments],
            page_offset=[5, 0],
            kv_len=host["kv_len"][segments].tolist(),
            kv_start=host["kv_start"][segments].tolist(),
            rows=[(0, 1), (0, 1)],
            causal=[False, False],
            row_pos=[int(host["row_pos"][row])],
            per_path=[False, True],
        )
        got = attend(alone, (q[row : row + 1], k, v), plan_work(alone, shape))
        assert torch.equal(got[0][0], out[row])
        assert torch.equal(got[1][0], lse[row])


@TRITON
@pytest.mark.parametrize("per_path", [False, True])
def test_bits_of_a_chunk_equal_bits_of_its_rows_alone(per_path: bool) -> None:
    """deterministic=True: a masked token leaves the bits of an absent one, across splits too."""
    rows = 150
    shape = dataclasses.replace(SMALL, deterministic=True, q_heads=1, kv_heads=1, tiles=(16,))

    def plan_of(length: int, chosen: list[int], causal: bool) -> SegmentPlan:
        return SegmentPlan.from_lists(
            pages=[list(range(10))],
            page_offset=[3],
            kv_len=[length],
            kv_start=[0],
            rows=[(0, len(chosen))],
            causal=[causal],
            row_pos=chosen,
            per_path=[per_path],
        )

    chosen = [0, 1, 31, 32, 127, 128, 149]
    chunk = plan_of(rows, chosen, causal=True)
    q, k, v = qkv(
        chunk, heads=(1, 1), head_dim=16, page_size=16, pages=10, seed=1, dtype=torch.bfloat16
    )
    out, lse = attend(chunk, (q, k, v), plan_work(chunk, shape))
    for number, row in enumerate(chosen):
        alone = plan_of(row + 1, [row], causal=False)
        got = attend(alone, (q[number : number + 1], k, v), plan_work(alone, shape))
        assert torch.equal(got[0][0], out[number])
        assert torch.equal(got[1][0], lse[number])


@TRITON
@pytest.mark.parametrize("capability", sorted(SHARED_BYTES))
def test_products_run_on_tensor_cores(capability: int) -> None:
    """Every variant in 16 bits; float32 has none, since its products must stay exact."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "fastsi.ops._triton_variants", "segment_attention"]
    command += ["--capability", str(capability)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, used in json.loads(done.stdout).items():
        assert (used["tensor_core_instructions"] > 0) == ("fp32" not in name), name
