"""merge_states: every backend against the fp64 reference; empty states, strides, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.ops import merge_states
from tests.ops.support import assert_as_good_as_torch, device_of, runners, running, torch_threads

RUNNERS = runners("merge_states")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
DOUBLE = [name for name in RUNNERS if name != "triton"]
CASES = [(r, d) for r in RUNNERS for d in DTYPES if r in DOUBLE or d != torch.float64]


def merge(runner: str, outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the op where the runner runs, and bring the result back."""
    device = device_of(runner)
    with running(runner) as backend:
        out, lse = merge_states(outs.to(device), lses.to(device), backend=backend)
    return out.cpu(), lse.cpu()


def states(
    n: int, rows: int, heads: int, dim: int, dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random partial results, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    outs = torch.randn(n, rows, heads, dim, generator=generator, dtype=torch.float64)
    lses = torch.randn(n, rows, heads, generator=generator, dtype=torch.float64) * 5
    empty = torch.rand(n, rows, heads, generator=generator) < 0.2
    lses[empty] = -torch.inf
    outs[empty] = 0
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    return outs.to(dtype), lses.to(sums)


@pytest.mark.parametrize(("runner", "dtype"), CASES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 5, 3, 64), (3, 7, 2, 33), (5, 4, 1, 128), (2, 3, 4, 129), (9, 2, 2, 257)],
    ids=str,
)
def test_precision(runner: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    outs, lses = states(*shape, dtype)
    truth, truth_lse = merge_states(outs.double(), lses.double(), backend="reference")
    plain, plain_lse = merge_states(outs, lses, backend="reference")
    out, lse = merge(runner, outs, lses)
    assert_as_good_as_torch(out, plain, truth)
    assert_as_good_as_torch(lse, plain_lse, truth_lse)


def test_reference_is_a_weighted_mean() -> None:
    outs, lses = states(4, 3, 2, 5, torch.float64, seed=1)
    lses[0] = 0.3  # no row is empty throughout
    weight = torch.softmax(lses, dim=0)
    out, lse = merge_states(outs, lses, backend="reference")
    torch.testing.assert_close(out, (weight[..., None] * outs).sum(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(lse.exp(), lses.exp().sum(0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("runner", "dtype"), CASES, ids=str)
def test_empty_states(runner: str, dtype: torch.dtype) -> None:
    """Empty with empty is empty; empty with something is that something, bit for bit."""
    outs, lses = states(2, 3, 2, 20, dtype)
    lses[:, 0], outs[:, 0] = -torch.inf, 0
    lses[1, 1:], outs[1, 1:] = -torch.inf, 0
    lses[0, 1:] = 1.5
    out, lse = merge(runner, outs, lses)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert (lse[0] == -torch.inf).all()
    assert torch.equal(out[1:], outs[0, 1:])
    assert torch.equal(lse[1:], lses[0, 1:])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # Triton's interpreter
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_value_of_a_storage_type(runner: str, dtype: torch.dtype) -> None:
    """One state merges to itself: all 65,536 patterns, subnormals included, survive the round trip;
    two with equal weights merge to their mean, rounded to nearest even as torch rounds."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).reshape(256, 1, 256)
    other = every.flatten()[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))]
    pair = torch.stack([every, other.reshape(256, 1, 256)])
    alone, _ = merge(runner, every[None], torch.zeros(1, 256, 1))
    mean, _ = merge(runner, pair, torch.zeros(2, 256, 1))
    number = ~every.isnan()
    assert torch.equal(alone[number], every[number])
    assert alone[~number].isnan().all()
    # The sum of two halves is exact in float64, so this rounds once (via float32, exactly, too).
    expected = ((pair[0].double() + pair[1].double()) / 2).float()
    torch.testing.assert_close(
        mean.float(), expected.to(dtype).float(), equal_nan=True, rtol=0, atol=0
    )


@pytest.mark.parametrize("runner", RUNNERS)
def test_strided_input(runner: str) -> None:
    dtype, close = (torch.float64, 1e-13) if runner in DOUBLE else (torch.float32, 1e-6)
    outs, lses = states(3, 4, 2, 24, dtype, seed=2)
    rows_first = outs.transpose(0, 1).contiguous().transpose(0, 1)
    dims_first = outs.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    heads_first = lses.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    expected = merge_states(outs, lses, backend="reference")
    for layout in (rows_first, dims_first, outs[:, :, :, :]):
        got = merge(runner, layout, heads_first)
        torch.testing.assert_close(got, expected, rtol=close, atol=close)


@pytest.mark.parametrize("runner", DOUBLE)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_grouping_does_not_matter(runner: str, data: st.DataObject) -> None:
    """Merging all at once equals merging any first part, then the rest."""
    n = data.draw(st.integers(2, 6))
    outs, lses = states(
        n,
        data.draw(st.integers(1, 6)),
        2,
        data.draw(st.integers(1, 40)),
        torch.float64,
        seed=data.draw(st.integers(0, 2**32)),
    )
    cut = data.draw(st.integers(1, n - 1))
    with running(runner) as backend:
        whole = merge_states(outs, lses, backend=backend)
        first = merge_states(outs[:cut], lses[:cut], backend=backend)
        rest = merge_states(outs[cut:], lses[cut:], backend=backend)
        pairs = (torch.stack(pair) for pair in zip(first, rest, strict=True))
        nested = merge_states(*pairs, backend=backend)
    torch.testing.assert_close(nested, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("runner", [name for name in RUNNERS if name != "reference"])
def test_bits_depend_on_the_row_alone(runner: str) -> None:
    outs, lses = states(3, 40, 4, 48, torch.float32, seed=3)
    whole = merge(runner, outs, lses)
    with torch_threads(3):
        again = merge(runner, outs, lses)
    few = merge(runner, outs[:, 7:9], lses[:, 7:9])
    for tensor, same, part in zip(whole, again, few, strict=True):
        assert torch.equal(tensor, same)
        assert torch.equal(tensor[7:9], part)


def test_bad_arguments_are_refused() -> None:
    outs, lses = states(2, 3, 2, 8, torch.float32)
    for arguments, message in [
        ((outs[0], lses), "outs: shape"),
        ((outs[:0], lses[:0]), "no partial"),
        ((outs, lses[:1]), "lses: shape"),
        ((outs, lses.double()), "lses: dtype is torch.float64"),
        ((outs.bfloat16(), lses.bfloat16()), "lses: dtype is torch.bfloat16"),
        ((outs.int(), lses), "outs: dtype is torch.int32"),
    ]:
        with pytest.raises(ValueError, match=message):
            merge_states(*arguments)
