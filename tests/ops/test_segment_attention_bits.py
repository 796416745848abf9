"""segment_attention: a row's bits depend on that row alone, whatever tile or thread computes it.

Promises of the Triton backend that its work list makes are in test_segment_work.
"""

from __future__ import annotations

import contextlib
import dataclasses
from importlib.util import find_spec

import pytest
import torch

from fastsi.ops import SegmentPlan, segment_attention
from fastsi.ops.segment_attention.work import WorkShape, plan_work
from tests.ops.support import device_of, integers, qkv, random_tree, running, torch_threads
from tests.ops.test_segment_attention import CPU, KINDS, one_segment
from tests.support.interpreter import products_in_order


@pytest.mark.parametrize("runner", CPU)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[4]], ids=str)
def test_bits_do_not_depend_on_other_rows(
    runner: str, seed: int, kind: tuple[torch.dtype, torch.dtype]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = integers(generator)
    tree = random_tree(draw, page_size=16)
    plan = tree.plan()
    q, k_cache, v_cache = qkv(
        plan,
        heads=(6, 2),
        head_dim=40,
        page_size=16,
        pages=tree.num_pages,
        seed=seed,
        dtype=kind[0],
    )
    k_cache, v_cache = k_cache.to(kind[1]), v_cache.to(kind[1])
    count = len(tree.paths)
    subsets = [[i] for i in range(count)] + [
        sorted(torch.randperm(count, generator=generator)[: draw(1, count)].tolist())
        for _ in range(4)
    ]
    with running(runner) as backend:
        out, lse = segment_attention(q, k_cache, v_cache, plan, window=70, backend=backend)
        for subset in subsets:
            few = segment_attention(
                q[subset], k_cache, v_cache, tree.plan(subset), window=70, backend=backend
            )
            assert torch.equal(few[0], out[subset])
            assert torch.equal(few[1], lse[subset])


@pytest.mark.parametrize("runner", CPU)
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("per_path", [False, True])
def test_bits_of_a_chunk_equal_bits_of_its_rows_alone(
    runner: str, window: int | None, per_path: bool
) -> None:
    """A masked token leaves the same bits as an absent one, so chunked prefill equals decode."""
    rows = 77
    plan = one_segment(rows, rows, 16, 3, causal=True, per_path=per_path)
    q, k_cache, v_cache = qkv(
        plan, heads=(6, 2), head_dim=24, page_size=16, pages=5, seed=1, dtype=torch.float32
    )
    pages = plan.page_ids.tolist()
    with running(runner) as backend:
        out, lse = segment_attention(q, k_cache, v_cache, plan, window=window, backend=backend)
        for row in range(rows):
            alone = SegmentPlan.from_lists(
                pages=[pages],
                page_offset=[3],
                kv_len=[row + 1],
                kv_start=[0],
                rows=[(0, 1)],
                causal=[False],
                row_pos=[row],
                per_path=[per_path],
            )
            got = segment_attention(
                q[row : row + 1], k_cache, v_cache, alone, window=window, backend=backend
            )
            assert torch.equal(got[0][0], out[row])
            assert torch.equal(got[1][0], lse[row])


@pytest.mark.parametrize("runner", CPU)
def test_bits_do_not_depend_on_threads(runner: str) -> None:
    tree = random_tree(integers(torch.Generator().manual_seed(3)), page_size=16, longest=600)
    plan = tree.plan()
    tensors = qkv(
        plan,
        heads=(9, 3),
        head_dim=64,
        page_size=16,
        pages=tree.num_pages,
        seed=3,
        dtype=torch.float32,
    )
    with running(runner) as backend:
        results = []
        for threads in (1, 2, 3, 7):
            with torch_threads(threads):
                results.append(segment_attention(*tensors, plan, backend=backend))
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(lse, results[0][1])


TILES = (64, 128)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"window": 100, "softcap": 20.0}], ids=str)
def test_bits_do_not_depend_on_the_tile(dtype: torch.dtype, options: dict[str, object]) -> None:
    """Tiles of 64 and of 128 pairs; rows beyond one tile of 64, and splits that are merged.

    On a GPU this says whether the compiler's instructions for both have one order of sums. In the
    interpreter, whose products are summed one by one, it says that the kernel has.
    """
    plan = one_segment(300, 33, 16, 5, causal=False)
    tensors = qkv(plan, heads=(8, 2), head_dim=64, page_size=16, pages=20, seed=8, dtype=dtype)
    shape = WorkShape.for_heads(8, 2, 64, 16)
    assert shape.tiles == TILES
    device = device_of("triton")
    in_order = contextlib.nullcontext() if device.type == "cuda" else products_in_order()
    results = []
    with running("triton") as backend, in_order:
        for tile in TILES:
            work = plan_work(plan, shape, tile=tile)
            assert work.tile == tile
            assert work.num_partials == 2 * plan.num_rows
            moved = dataclasses.replace(plan.to(device), work=work.to(device))
            inputs = (tensor.to(device) for tensor in tensors)
            results.append(segment_attention(*inputs, moved, backend=backend, **options))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_deterministic_has_one_tile_and_one_split_for_every_batch(
    head_dim: int, element_bytes: int
) -> None:
    """So its promise does not rest on two tiles giving the same bits."""
    sizes = {"element_bytes": element_bytes, "deterministic": True}
    shape = WorkShape.for_heads(32, 8, head_dim, 16, **sizes)
    batches = [plan_work(one_segment(1500, rows, 16, 0, False), shape) for rows in (1, 16, 33, 200)]
    assert {work.tile for work in batches} == {shape.tiles[-1]}
    cuts = [sorted({tuple(cut) for cut in work.tiles[:, 2:4].tolist()}) for work in batches]
    assert cuts == [[(0, 512), (512, 1024), (1024, 1500)]] * 4
    free = WorkShape.for_heads(32, 8, head_dim, 16, element_bytes=element_bytes)
    found = {plan_work(one_segment(1500, rows, 16, 0, False), free).tile for rows in (1, 200)}
    assert found == set(free.tiles), "without it both tiles are in use"
