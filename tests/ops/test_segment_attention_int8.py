"""segment_attention over int8 caches: errors within what rounding may do, and promises on bits.

Backend "cpu" may round queries and weights to 8 bits, or in spans that paths share to 7, and
multiply integers; what that may change is derived in `int8_attention.truth_of`, per row and head.
Where it has 7 bits, spans of one path are exact to float32, as the reference is.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.ops import SegmentPlan, segment_attention
from tests.ops.int8_attention import Case, assert_within, make_case, share_of_bounds, truth_of
from tests.ops.support import (
    assert_as_good_as_torch,
    integers,
    random_tree,
    runners,
    running,
    torch_threads,
)
from tests.ops.test_segment_attention import SHAPES, nearly_hidden_plan, one_segment

RUNNERS = [name for name in runners("segment_attention") if name != "triton"]
CPU = [name for name in RUNNERS if name.startswith("cpu")]
HEAD_DIMS = [32, 48, 64, 80, 96, 128, 192, 256]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("per_path", [False, True])
def test_precision(runner: str, shape: tuple[int, ...], per_path: bool) -> None:
    """As exactly as plain torch where arithmetic is float32, else within what rounding may do."""
    kv_len, rows, q_heads, kv_heads, head_dim, page_size, offset = shape
    plan = one_segment(kv_len, rows, page_size, offset, causal=False, per_path=per_path)
    pages = (offset + kv_len) // page_size + 1
    case = make_case(
        plan,
        heads=(q_heads, kv_heads),
        head_dim=head_dim,
        page_size=page_size,
        pages=pages,
        seed=kv_len,
    )
    truth = truth_of(case, plan)
    with running(runner) as backend:
        got = case.attend(plan, backend=backend)
    share = share_of_bounds(runner, per_path=per_path)
    assert_within(got, truth, share)
    if share == 0:
        plain = case.attend(plan, backend="reference")
        # Scales are multiplied in at another place, and few errors have a maximum that varies.
        assert_as_good_as_torch(got[0], plain[0], truth.out, 3.0)
        assert_as_good_as_torch(got[1], plain[1], truth.lse, 3.0)


@pytest.mark.parametrize("runner", RUNNERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_random_trees(runner: str, data: st.DataObject) -> None:
    """Ragged groups of 1 to 9, empty spans, pages that start in the middle, odd head_dim."""
    page_size = data.draw(st.sampled_from([1, 3, 16, 64]), label="page_size")
    tree = random_tree(
        lambda low, high: data.draw(st.integers(low, high)), page_size=page_size, longest=80
    )
    plan = tree.plan()
    kv_heads = data.draw(st.integers(1, 3), label="kv_heads")
    case = make_case(
        plan,
        heads=(kv_heads * data.draw(st.integers(1, 9), label="group"), kv_heads),
        head_dim=data.draw(st.sampled_from(HEAD_DIMS) | st.integers(32, 100), label="head_dim"),
        page_size=page_size,
        pages=tree.num_pages,
        seed=data.draw(st.integers(0, 2**32), label="seed"),
        outliers=data.draw(st.booleans(), label="outliers"),
    )
    options: dict[str, Any] = {
        "window": data.draw(st.none() | st.integers(1, 200), label="window"),
        "softcap": data.draw(st.none() | st.sampled_from([2.0, 50.0]), label="softcap"),
    }
    with running(runner) as backend:
        got = case.attend(plan, backend=backend, **options)
    assert_within(got, truth_of(case, plan, **options))


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e30])
def test_a_large_value_that_weighs_little_leaves_the_others_their_grain(
    runner: str, size: float
) -> None:
    """Weights are rounded in steps of the largest weight times scale, not of the largest scale."""
    plan = one_segment(100, 24, 16, 0, causal=False)

    def change(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        q[..., 0] = 4.0
        keys[1, :, 3, 0] = -40.0
        values[1, :, 3] *= 2000.0
        values *= size

    shape: dict[str, Any] = {"heads": (6, 2), "head_dim": 64, "page_size": 16, "pages": 7}
    case = make_case(plan, **shape, seed=3, outliers=False, change=change)
    truth = truth_of(case, plan).out
    with running(runner) as backend:
        out, _ = case.attend(plan, backend=backend)
    assert (out.double() - truth).square().mean().sqrt() < 0.06 * truth.square().mean().sqrt()


@pytest.mark.parametrize("runner", RUNNERS)
def test_huge_scores_keep_the_weight_of_the_largest(runner: str) -> None:
    """Its weight is rounded up to one level too many where scores have few digits behind the point.

    The values' largest magnitude is where a straight line is furthest from the logarithm.
    """
    plan = one_segment(100, 8, 16, 0, causal=False)
    shape: dict[str, Any] = {"heads": (4, 2), "head_dim": 64, "page_size": 16, "pages": 7}
    for power in range(-12, 12):

        def change(
            q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, size: float = 2.0**power
        ) -> None:
            q.fill_(1.0)
            keys.fill_(-1.0)
            keys[2, :, 7] = 4.0
            values *= 1.4427 * size * 127 / values.abs().amax(dim=-1, keepdim=True)

        case = make_case(plan, **shape, seed=5, outliers=False, change=change)
        scales = case.scales["v_scale"][2, :, 7, None]
        expected = (case.v[2, :, 7] * scales).repeat_interleave(2, 0).expand(8, 4, 64)
        with running(runner) as backend:
            out, _ = case.attend(plan, backend=backend, scale=1000.0)
        torch.testing.assert_close(out, expected, rtol=0.01, atol=0.0)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("window", [None, 1, 5, 64, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("per_path", [False, True])
def test_causal_chunks(
    runner: str, window: int | None, softcap: float | None, per_path: bool
) -> None:
    plan = one_segment(150, 70, 16, 5, causal=True, per_path=per_path)
    case = make_case(plan, heads=(6, 2), head_dim=48, page_size=16, pages=10, seed=7)
    options: dict[str, Any] = {"window": window, "softcap": softcap, "scale": 0.2}
    with running(runner) as backend:
        got = case.attend(plan, backend=backend, **options)
    assert_within(got, truth_of(case, plan, **options), share_of_bounds(runner, per_path=per_path))


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_the_error_of_a_long_shared_span_is_small_on_average(runner: str, head_dim: int) -> None:
    """A worst case hides faults that touch everything a little; a mean does not."""
    plan = one_segment(700, 24, 16, 7, causal=False)
    case = make_case(plan, heads=(6, 2), head_dim=head_dim, page_size=16, pages=45, seed=head_dim)
    truth = truth_of(case, plan)
    with running(runner) as backend:
        out, lse = case.attend(plan, backend=backend)
    error = (out.double() - truth.out).square().mean().sqrt() / truth.out.square().mean().sqrt()
    assert error < 0.06
    assert (lse.double() - truth.lse).square().mean().sqrt() < 0.02
    bias = ((out.double() - truth.out) * truth.out.sign()).mean() / truth.out.abs().mean()
    assert abs(bias) < 0.01


@pytest.mark.parametrize("runner", RUNNERS)
def test_tokens_whose_keys_or_values_are_zero(runner: str) -> None:
    plan = one_segment(100, 9, 16, 3, causal=False)
    case = make_case(plan, heads=(4, 2), head_dim=80, page_size=16, pages=7, seed=0)
    for cache, name in ((case.k, "k_scale"), (case.v, "v_scale")):
        cache[1:3], case.scales[name][1:3] = 0, 0.0
    with running(runner) as backend:
        got = case.attend(plan, backend=backend)
        assert_within(got, truth_of(case, plan))
        for cache, name in ((case.k, "k_scale"), (case.v, "v_scale")):
            cache.zero_()
            case.scales[name].zero_()
        out, lse = case.attend(plan, backend=backend)
        silent = Case(torch.zeros_like(case.q), case.k, case.v, case.scales)
        assert torch.equal(silent.attend(plan, backend=backend)[0], out)
    assert (out == 0).all()
    torch.testing.assert_close(lse, torch.full_like(lse, 100.0).log())


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", ["k_scale", "v_scale"])
@pytest.mark.parametrize("per_path", [False, True])
def test_a_token_that_is_not_finite_spoils_the_rows_that_see_it(
    runner: str, name: str, per_path: bool
) -> None:
    """Its integers are 0 and its scale is NaN; rows of other spans keep their bits."""
    plan = SegmentPlan.from_lists(
        pages=[[0, 1], [2, 3], [4, 5]],
        page_offset=[0, 0, 0],
        kv_len=[20, 32, 32],
        kv_start=[0, 20, 20],
        rows=[(0, 5), (0, 3), (3, 5)],
        causal=[False] * 3,
        row_pos=[60] * 5,
        per_path=[False, per_path, per_path],
    )
    case = make_case(plan, heads=(4, 2), head_dim=64, page_size=16, pages=6, seed=1)
    with running(runner) as backend:
        before = case.attend(plan, backend=backend)
        case.scales[name][3, :, 5] = torch.nan
        after = case.attend(plan, backend=backend)
    assert after[0][:3].isnan().all()
    if name == "k_scale":
        assert after[1][:3].isnan().all()
    if runner != "reference":  # which multiplies what a row does not see by 0
        assert torch.equal(after[0][3:], before[0][3:])
        assert torch.equal(after[1][3:], before[1][3:])


@pytest.mark.parametrize("runner", RUNNERS)
def test_rows_that_see_nothing(runner: str) -> None:
    plan = nearly_hidden_plan()
    case = make_case(plan, heads=(2, 1), head_dim=32, page_size=4, pages=2, seed=0)
    with running(runner) as backend:
        out, lse = case.attend(plan, window=50, backend=backend)
        none = case.attend(
            SegmentPlan.from_lists(
                pages=[], page_offset=[], kv_len=[], kv_start=[], rows=[], causal=[], row_pos=[]
            ),
            rows=[],
            backend=backend,
        )
    blind = [0, 1, 3]  # in no segment with tokens; before the span; past the window
    assert torch.equal(out[blind], torch.zeros(3, 2, 32))
    assert torch.equal(lse[blind], torch.full((3, 2), -torch.inf))
    assert_within((out, lse), truth_of(case, plan, window=50))
    assert none[0].shape == (0, 2, 32)


@pytest.mark.parametrize("runner", CPU)
@pytest.mark.parametrize("seed", range(6))
def test_bits_do_not_depend_on_other_rows(runner: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = integers(generator)
    tree = random_tree(draw, page_size=16)
    plan = tree.plan()
    head_dim = HEAD_DIMS[seed]
    case = make_case(
        plan, heads=(6, 2), head_dim=head_dim, page_size=16, pages=tree.num_pages, seed=seed
    )
    count = len(tree.paths)
    subsets = [[i] for i in range(count)] + [
        sorted(torch.randperm(count, generator=generator)[: draw(1, count)].tolist())
        for _ in range(4)
    ]
    with running(runner) as backend:
        out, lse = case.attend(plan, window=70, backend=backend)
        for subset in subsets:
            few = case.attend(tree.plan(subset), subset, window=70, backend=backend)
            assert torch.equal(few[0], out[subset])
            assert torch.equal(few[1], lse[subset])


@pytest.mark.parametrize("runner", CPU)
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("per_path", [False, True])
def test_bits_of_a_chunk_equal_bits_of_its_rows_alone(
    runner: str, window: int | None, per_path: bool
) -> None:
    """A masked token leaves the same bits as an absent one, so chunked prefill equals decode."""
    rows = 140
    plan = one_segment(rows, rows, 16, 3, causal=True, per_path=per_path)
    case = make_case(plan, heads=(6, 2), head_dim=48, page_size=16, pages=9, seed=1)
    pages = plan.page_ids.tolist()
    with running(runner) as backend:
        out, lse = case.attend(plan, window=window, backend=backend)
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
            got = case.attend(alone, [row], window=window, backend=backend)
            assert torch.equal(got[0][0], out[row])
            assert torch.equal(got[1][0], lse[row])


@pytest.mark.parametrize("runner", CPU)
def test_bits_do_not_depend_on_threads(runner: str) -> None:
    tree = random_tree(integers(torch.Generator().manual_seed(3)), page_size=16, longest=600)
    plan = tree.plan()
    case = make_case(plan, heads=(9, 3), head_dim=64, page_size=16, pages=tree.num_pages, seed=3)
    with running(runner) as backend:
        results = []
        for threads in (1, 2, 3, 7):
            with torch_threads(threads):
                results.append(case.attend(plan, backend=backend))
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(lse, results[0][1])


def test_scales_are_asked_for_and_refused() -> None:
    plan = one_segment(10, 2, 16, 0, causal=False)
    case = make_case(plan, heads=(2, 1), head_dim=32, page_size=16, pages=1, seed=0)
    with pytest.raises(ValueError, match=r"k_scale: the cache is torch\.int8: is missing; give"):
        segment_attention(case.q, case.k, case.v, plan)
    with pytest.raises(ValueError, match=r"k_scale: the cache is torch\.float32: leave it out"):
        segment_attention(case.q, case.k.float(), case.v.float(), plan, **case.scales)
    with pytest.raises(ValueError, match=r"k_cache: dtype is torch\.int8, must be torch\.float64"):
        segment_attention(case.q.double(), case.k, case.v, plan, **case.scales)
    short = {name: scale[..., :8] for name, scale in case.scales.items()}
    with pytest.raises(ValueError, match=r"k_scale: shape is \[1, 1, 8\], must be \[1, 1, 16\]"):
        segment_attention(case.q, case.k, case.v, plan, **short)
