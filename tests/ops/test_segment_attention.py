"""segment_attention: every backend against the fp64 reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.ops import SegmentPlan, merge_states, segment_attention
from fastsi.ops.segment_attention.plan import FIELDS
from tests.ops.support import (
    Tensors,
    assert_as_good_as_torch,
    device_of,
    integers,
    qkv,
    random_tree,
    runners,
    running,
)

RUNNERS = runners("segment_attention")
CPU = [name for name in RUNNERS if name.startswith("cpu")]
DOUBLE = [name for name in RUNNERS if name != "triton"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
WITH_DTYPES = [(r, d) for r in RUNNERS for d in DTYPES if r in DOUBLE or d != torch.float64]
# Of queries and of the cache.
KINDS = [*((dtype, dtype) for dtype in DTYPES), (torch.float32, torch.bfloat16)]

# (kv_len, rows, query heads, kv heads, head_dim, page_size, page_offset): tile, vector and register
# block sizes of the kernels less one, exactly, and plus one; odd head_dim; groups 1 to 9.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 0),
    (63, 3, 4, 2, 64, 16, 0),
    (64, 5, 6, 2, 64, 16, 3),
    (65, 7, 9, 3, 64, 16, 15),
    (15, 8, 5, 5, 33, 4, 1),
    (16, 9, 7, 1, 80, 16, 0),
    (17, 11, 9, 1, 128, 32, 31),
    (130, 70, 8, 2, 16, 8, 7),
    (200, 23, 3, 1, 7, 16, 2),
    (0, 4, 4, 2, 32, 16, 0),
    (31, 130, 2, 2, 256, 5, 4),
]
# The same edges with fewer rows: 1, 16, 17, 128 and 132 pairs (row, head) per tile.
TRITON_SHAPES = [
    (1, 1, 1, 1, 1, 1, 0),
    (63, 4, 8, 2, 64, 16, 0),
    (64, 3, 6, 2, 64, 16, 3),
    (65, 1, 9, 3, 64, 16, 15),
    (33, 17, 1, 1, 33, 4, 1),
    (31, 2, 9, 1, 128, 32, 31),
    (0, 4, 4, 2, 32, 16, 0),
    (32, 2, 17, 1, 256, 5, 4),
    (130, 33, 4, 1, 16, 8, 7),
    (70, 32, 4, 1, 80, 16, 2),
]
CASES = [(r, kind, shape) for r in DOUBLE for kind in KINDS for shape in SHAPES] + [
    ("triton", kind, shape)
    for number, shape in enumerate(TRITON_SHAPES)
    for kind in (KINDS[2], KINDS[number % 2 * 3], *KINDS[4:][: number % 2])
    if "triton" in RUNNERS
]


def one_segment(
    kv_len: int, rows: int, page_size: int, offset: int, causal: bool, per_path: bool = False
) -> SegmentPlan:
    """All rows attend to one span; with ``causal`` they are the span's own last tokens."""
    pages = -(-(offset + kv_len) // page_size)
    first = max(kv_len - rows, 0) if causal else kv_len
    return SegmentPlan.from_lists(
        pages=[list(range(pages))[::-1]],
        page_offset=[offset],
        kv_len=[kv_len],
        kv_start=[0],
        rows=[(0, rows)],
        causal=[causal],
        row_pos=[first + r for r in range(rows)],
        per_path=[per_path],
    )


def attend(
    runner: str, tensors: Tensors, plan: SegmentPlan, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the op where the runner runs, and bring the result back."""
    device = device_of(runner)
    with running(runner) as backend:
        moved = (tensor.to(device) for tensor in tensors)
        out, lse = segment_attention(*moved, plan.to(device), backend=backend, **options)
    return out.cpu(), lse.cpu()


@pytest.mark.parametrize(("runner", "kind", "shape"), CASES, ids=str)
@pytest.mark.parametrize("per_path", [False, True])
def test_precision(
    runner: str,
    kind: tuple[torch.dtype, torch.dtype],
    shape: tuple[int, ...],
    per_path: bool,
) -> None:
    kv_len, rows, q_heads, kv_heads, head_dim, page_size, offset = shape
    plan = one_segment(kv_len, rows, page_size, offset, causal=False, per_path=per_path)
    sizes = {"page_size": page_size, "pages": (offset + kv_len) // page_size + 1}
    tensors = qkv(
        plan, heads=(q_heads, kv_heads), head_dim=head_dim, seed=kv_len, dtype=kind[0], **sizes
    )
    tensors = (tensors[0], *(cache.to(kind[1]) for cache in tensors[1:]))
    exact = [tensor.double() for tensor in tensors]
    truth, truth_lse = segment_attention(*exact, plan, backend="reference")
    plain, plain_lse = segment_attention(*tensors, plan, backend="reference")
    out, lse = attend(runner, tensors, plan)
    assert_as_good_as_torch(out, plain, truth)
    assert_as_good_as_torch(lse, plain_lse, truth_lse)


@pytest.mark.parametrize(
    ("runner", "dtype"), [case for case in WITH_DTYPES if case[1] in DTYPES[:2]], ids=str
)
@pytest.mark.parametrize("window", [None, 1, 5, 64, 100])
@pytest.mark.parametrize("softcap", [None, 2.0, 50.0])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_and_softcap(
    runner: str, window: int | None, softcap: float | None, causal: bool, dtype: torch.dtype
) -> None:
    rows, heads = (90, (6, 2)) if runner in DOUBLE else (11, (3, 1))
    plan = one_segment(150, rows, 16, 5, causal)
    tensors = qkv(plan, heads=heads, head_dim=48, page_size=16, pages=10, seed=7, dtype=dtype)
    options = {"window": window, "softcap": softcap, "scale": 0.4}
    truth, truth_lse = segment_attention(
        *(t.double() for t in tensors), plan, backend="reference", **options
    )
    plain, plain_lse = segment_attention(*tensors, plan, backend="reference", **options)
    out, lse = attend(runner, tensors, plan, **options)
    assert_as_good_as_torch(out, plain, truth)
    assert_as_good_as_torch(lse, plain_lse, truth_lse)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[4]], ids=str)
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
def test_tiles_are_as_exact_as_plain_torch(
    head_dim: int, kind: tuple[torch.dtype, torch.dtype]
) -> None:
    """The bfloat16 parts that matrix tiles multiply must not show, whatever the magnitudes."""
    plan = one_segment(1500, 40, 16, 7, causal=False)
    sizes = {"heads": (6, 2), "head_dim": head_dim, "page_size": 16, "pages": 95, "seed": head_dim}
    q, k_cache, v_cache = qkv(plan, **sizes, dtype=torch.float32)
    spread = torch.logspace(-3, 3, head_dim)
    tensors = (q, k_cache.to(kind[1]), (v_cache * spread).to(kind[1]))
    truth, truth_lse = segment_attention(*(t.double() for t in tensors), plan, backend="reference")
    plain, plain_lse = segment_attention(*tensors, plan, backend="reference")
    with running("cpu-amx") as backend:
        out, lse = segment_attention(*tensors, plan, backend=backend)
    for d in range(head_dim):
        assert_as_good_as_torch(out[..., d], plain[..., d], truth[..., d])
    assert_as_good_as_torch(lse, plain_lse, truth_lse)


def test_reference_is_attention() -> None:
    """The reference itself, against torch's own attention over contiguous keys."""
    plan = one_segment(40, 40, 8, 0, causal=True)
    q, k_cache, v_cache = qkv(plan, heads=(4, 2), head_dim=16, page_size=8, pages=5, seed=0)
    out, lse = segment_attention(q, k_cache, v_cache, plan, backend="reference")
    order = plan.page_ids.long()
    k, v = (c[order].transpose(0, 1).reshape(2, 40, 16) for c in (k_cache, v_cache))
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1)[None], k[None], v[None], is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(out, expected[0].transpose(0, 1), rtol=1e-12, atol=1e-12)
    scores = torch.einsum("rhd,htd->rht", q, k.repeat_interleave(2, 0)) * 16**-0.5
    scores += torch.triu(torch.full((40, 40), -torch.inf, dtype=torch.float64), 1)[:, None]
    torch.testing.assert_close(lse, scores.logsumexp(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("runner", DOUBLE)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_random_trees(runner: str, data: st.DataObject) -> None:
    """Multi-level trees with ragged groups, empty spans and pages that start in the middle."""
    page_size = data.draw(st.sampled_from([1, 3, 16]))
    tree = random_tree(
        lambda low, high: data.draw(st.integers(low, high)), page_size=page_size, longest=80
    )
    plan = tree.plan()
    group = data.draw(st.integers(1, 9))
    tensors = qkv(
        plan,
        heads=(2 * group, 2),
        head_dim=data.draw(st.integers(1, 40)),
        page_size=page_size,
        pages=tree.num_pages,
        seed=data.draw(st.integers(0, 2**32)),
    )
    window = data.draw(st.none() | st.integers(1, 200))
    expected = segment_attention(*tensors, plan, window=window, backend="reference")
    with running(runner) as backend:
        got = segment_attention(*tensors, plan, window=window, backend=backend)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def nearly_hidden_plan() -> SegmentPlan:
    """Four rows, of which only the third sees a token through a window of 50: one belongs to no
    span with tokens, one stands before its span, one is past it."""
    return SegmentPlan.from_lists(
        pages=[[0], [1]],
        page_offset=[0, 0],
        kv_len=[4, 0],
        kv_start=[10, 14],
        rows=[(1, 4), (0, 4)],
        causal=[True, False],
        row_pos=[20, 9, 10, 99],
    )


@pytest.mark.parametrize("runner", RUNNERS)
def test_rows_that_see_nothing(runner: str) -> None:
    plan = nearly_hidden_plan()
    tensors = qkv(plan, heads=(2, 1), head_dim=8, page_size=4, pages=2, seed=0, dtype=torch.float32)
    out, lse = attend(runner, tensors, plan, window=50)
    blind = [0, 1, 3]  # in no segment with tokens; before the span; past the window
    assert torch.equal(out[blind], torch.zeros(3, 2, 8))
    assert torch.equal(lse[blind], torch.full((3, 2), -torch.inf))
    assert lse[2].isfinite().all()
    torch.testing.assert_close(out[2], tensors[2][0, 0, :1].expand(2, 8))


@pytest.mark.parametrize("runner", RUNNERS)
def test_no_rows_and_no_segments(runner: str) -> None:
    nothing = SegmentPlan.from_lists(
        pages=[], page_offset=[], kv_len=[], kv_start=[], rows=[], causal=[], row_pos=[5, 6]
    )
    q, k_cache, v_cache = qkv(
        nothing, heads=(2, 1), head_dim=8, page_size=4, pages=1, seed=0, dtype=torch.float32
    )
    out, lse = attend(runner, (q, k_cache, v_cache), nothing)
    assert (out == 0).all()
    assert (lse == -torch.inf).all()
    empty = SegmentPlan.from_lists(
        pages=[], page_offset=[], kv_len=[], kv_start=[], rows=[], causal=[], row_pos=[]
    )
    out, lse = attend(runner, (q[:0], k_cache, v_cache), empty)
    assert out.shape == (0, 2, 8)
    assert lse.shape == (0, 2)


@pytest.mark.parametrize("runner", RUNNERS)
def test_strided_queries(runner: str) -> None:
    plan = one_segment(40, 9, 8, 0, causal=True)
    dtype, close = (torch.float64, 1e-12) if runner in DOUBLE else (torch.float32, 1e-5)
    sizes = {"heads": (4, 2), "head_dim": 16, "page_size": 8, "pages": 5, "seed": 2}
    q, k_cache, v_cache = qkv(plan, **sizes, dtype=dtype)
    fused = torch.zeros(9, 3, 4, 16, dtype=dtype)
    fused[:, 1] = q
    layouts = {
        "slice of a fused projection": fused[:, 1],
        "heads first": q.transpose(0, 1).contiguous().transpose(0, 1),
        "head_dim first": q.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    }
    expected = segment_attention(q, k_cache, v_cache, plan, backend="reference")
    for name, layout in layouts.items():
        assert torch.equal(layout, q), name
        got = attend(runner, (layout, k_cache, v_cache), plan)
        torch.testing.assert_close(got, expected, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("runner", "dtype"), [case for case in WITH_DTYPES if case[1] in DTYPES[:2]], ids=str
)
def test_extreme_scores(runner: str, dtype: torch.dtype) -> None:
    """Scores of +-1e4 overflow a plain exponential; the largest must win outright."""
    plan = one_segment(100, 3, 16, 0, causal=False)
    q, k_cache, v_cache = qkv(
        plan, heads=(2, 2), head_dim=8, page_size=16, pages=7, seed=4, dtype=dtype
    )
    truth, truth_lse = segment_attention(
        *(t.double() for t in (q, k_cache, v_cache)), plan, scale=3e3, backend="reference"
    )
    out, lse = attend(runner, (q, k_cache, v_cache), plan, scale=3e3)
    torch.testing.assert_close(lse.double(), truth_lse, rtol=1e-5, atol=0)
    torch.testing.assert_close(out.double(), truth, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("scale", [-0.4, 0.0])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_scale_that_turns_or_ignores_scores(
    runner: str, scale: float, softcap: float | None
) -> None:
    plan = one_segment(70, 5, 16, 3, causal=True)
    sizes = {"heads": (4, 2), "head_dim": 16, "page_size": 16, "pages": 5, "seed": 9}
    tensors = qkv(plan, **sizes, dtype=torch.float32)
    options = {"scale": scale, "softcap": softcap}
    expected = segment_attention(*tensors, plan, backend="reference", **options)
    got = attend(runner, tensors, plan, **options)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # Triton's interpreter
@pytest.mark.parametrize(("runner", "dtype"), WITH_DTYPES, ids=str)
def test_nan_stays_in_its_row(runner: str, dtype: torch.dtype) -> None:
    plan = one_segment(70, 9, 16, 0, causal=False)
    q, k_cache, v_cache = qkv(
        plan, heads=(3, 1), head_dim=16, page_size=16, pages=5, seed=5, dtype=dtype
    )
    q[4, 1] = torch.nan
    out, lse = attend(runner, (q, k_cache, v_cache), plan)
    bad = torch.zeros(9, 3, dtype=torch.bool)
    bad[4, 1] = True
    assert torch.equal(out.isnan().all(dim=2), bad)
    assert torch.equal(out.isnan().any(dim=2), bad)
    assert torch.equal(lse.isnan(), bad)


@pytest.mark.parametrize("runner", DOUBLE)
def test_union_equals_merge_of_parts(runner: str) -> None:
    tree = random_tree(integers(torch.Generator().manual_seed(11)), page_size=16)
    plan = tree.plan()
    q, k_cache, v_cache = qkv(
        plan, heads=(4, 2), head_dim=16, page_size=16, pages=tree.num_pages, seed=11
    )
    parts = []
    with running(runner) as backend:
        whole = segment_attention(q, k_cache, v_cache, plan, backend=backend)
        for s in range(plan.num_segments):
            first, last = int(plan.page_indptr[s]), int(plan.page_indptr[s + 1])
            single = SegmentPlan.from_lists(
                pages=[plan.page_ids[first:last].tolist()],
                page_offset=[int(plan.page_offset[s])],
                kv_len=[int(plan.kv_len[s])],
                kv_start=[int(plan.kv_start[s])],
                rows=[(int(plan.row_begin[s]), int(plan.row_end[s]))],
                causal=[False],
                row_pos=plan.row_pos.tolist(),
            )
            parts.append(segment_attention(q, k_cache, v_cache, single, backend=backend))
        outs, lses = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
        merged = merge_states(outs, lses, backend=backend)
    torch.testing.assert_close(merged, whole, rtol=1e-12, atol=1e-12)


def test_gradients_flow_through_the_reference() -> None:
    plan = one_segment(5, 3, 4, 1, causal=True)
    tensors = qkv(plan, heads=(2, 1), head_dim=2, page_size=4, pages=2, seed=6)
    inputs = tuple(t.requires_grad_() for t in tensors)
    assert torch.autograd.gradcheck(lambda *t: segment_attention(*t, plan), inputs)


@pytest.mark.parametrize("runner", CPU)
def test_bad_plans_are_refused(runner: str) -> None:
    good = {
        "pages": [[0, 1]],
        "page_offset": [1],
        "kv_len": [7],
        "kv_start": [0],
        "rows": [(0, 2)],
        "causal": [False],
        "row_pos": [7, 7],
    }
    faults = [
        ({"kv_len": [8]}, "kv_len"),
        ({"kv_len": [-1]}, "kv_len"),
        ({"pages": [[0, 2]]}, "holds page 2, k_cache has 2"),
        ({"pages": [[0, -1]]}, "page_ids"),
        ({"page_offset": [4]}, "page_offset"),
        ({"rows": [(0, 3)]}, "rows 0..3"),
        ({"rows": [(2, 1)]}, "rows 2..1"),
    ]
    tensors = qkv(
        SegmentPlan.from_lists(**good), heads=(2, 1), head_dim=8, page_size=4, pages=2, seed=0
    )
    with running(runner) as backend:
        segment_attention(*tensors, SegmentPlan.from_lists(**good), backend=backend)
        for change, message in faults:
            plan = SegmentPlan.from_lists(**{**good, **change})
            with pytest.raises(ValueError, match=message):
                segment_attention(*tensors, plan, backend=backend)


def test_bad_arguments_are_refused() -> None:
    plan = one_segment(4, 2, 4, 0, causal=False)
    q, k_cache, v_cache = qkv(plan, heads=(4, 2), head_dim=8, page_size=4, pages=1, seed=0)
    wrong = [
        ((q[:1], k_cache, v_cache), {}, r"q: shape is \[1, 4, 8\]"),
        ((q, k_cache[..., :4], v_cache), {}, "k_cache: shape"),
        ((q, k_cache, v_cache[:, :1]), {}, "v_cache: shape"),
        (
            (q, k_cache.float(), v_cache),
            {},
            "k_cache: dtype is torch.float32, must be torch.float64",
        ),
        (
            (q.float(), k_cache, v_cache),
            {},
            "torch.float64, must be torch.float32, torch.bfloat16 or torch.int8",
        ),
        ((q.float(), k_cache.float(), v_cache.bfloat16()), {}, "v_cache: dtype is torch.bfloat16"),
        ((q[:, :3], k_cache, v_cache), {}, "3 heads"),
        ((q, k_cache.transpose(1, 2).contiguous().transpose(1, 2), v_cache), {}, "contiguous"),
        ((q, k_cache, v_cache), {"window": 0}, "window=0"),
        ((q, k_cache, v_cache), {"softcap": 0.0}, "softcap=0.0"),
        ((q.long(), k_cache, v_cache), {}, "q: dtype is torch.int64"),
    ]
    for tensors, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            segment_attention(*tensors, plan, **options)
    with pytest.raises(ValueError, match=r"plan\.page_indptr: is torch\.int64"):
        SegmentPlan(**{name: getattr(plan, name).long() for name in FIELDS})
