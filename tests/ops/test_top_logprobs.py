"""top_logprobs: every backend against the sorted row; ties, -inf, ranks, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsi import ops
from fastsi.ops import TopLogprobs, top_logprobs
from fastsi.ops._registry import Facts, choose
from fastsi.ops.top_logprobs import _topk
from tests.ops.support import assert_as_good_as_torch, device_of, runners, running, torch_threads

RUNNERS = [*runners("top_logprobs"), "torch"]
"""``torch``: what a GPU runs, on the CPU."""
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def top(
    runner: str,
    logits: torch.Tensor,
    tokens: torch.Tensor,
    count: int,
    row_index: torch.Tensor | None = None,
) -> TopLogprobs:
    """Run the op where the runner runs, and bring the result back."""
    if runner == "torch":
        return _topk.top_logprobs(logits, tokens, count, row_index)
    device = device_of(runner)
    index = None if row_index is None else row_index.to(device)
    with running(runner) as backend:
        found = top_logprobs(
            logits.to(device), tokens.to(device), count, row_index=index, backend=backend
        )
    return TopLogprobs(*(part.cpu() for part in found))


def scattered(rows: int, vocab: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Logits in random order; no two of a short row are equal, in any of the types."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(vocab, generator=generator) for _ in range(rows)])
    return (order.double() / 32 - 4).to(dtype)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("vocab", "count"), [(1, 1), (7, 0), (16, 5), (17, 17), (33, 3), (300, 20), (5001, 7)]
)
def test_against_the_sorted_row(runner: str, dtype: torch.dtype, vocab: int, count: int) -> None:
    logits = scattered(6, vocab, dtype, seed=vocab)
    distinct = all(len(row.unique()) == vocab for row in logits)
    tokens = torch.arange(6) * 3 % vocab
    tokens[2] = -1
    index = torch.tensor([5, 0, 1, 1, 3, 2])
    want = top_logprobs(logits, tokens, count, row_index=index, backend="reference")
    truth = torch.log_softmax(logits[index].double(), dim=1).sort(dim=1, descending=True)[0]
    found = top(runner, logits, tokens, count, index)
    assert torch.equal(found.rank, want.rank)
    assert int(found.rank[2]) == 0
    assert found.token_ids.dtype == torch.int64
    if distinct or "cpu" in runner:
        assert torch.equal(found.token_ids, want.token_ids)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    plain = torch.log_softmax(logits[index].to(wide), dim=1).sort(dim=1, descending=True)[0]
    assert_as_good_as_torch(found.logprobs, plain[:, :count], truth[:, :count])


@given(
    st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 8), st.sampled_from([0.0, 0.3, 1.0])
)
def test_ties_and_hidden_tokens(seed: int, vocab: int, values: int, hidden: float) -> None:
    """Of equal logits the first; a token at -inf only where there are no others."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, values, (3, vocab), generator=generator).float()
    logits[torch.rand(3, vocab, generator=generator) < hidden] = -torch.inf
    logits[:, int(torch.randint(0, vocab, (1,), generator=generator))] = 1.0
    tokens = torch.randint(0, vocab, (3,), generator=generator)
    count = int(torch.randint(0, vocab + 1, (1,), generator=generator))
    want = top_logprobs(logits, tokens, count, backend="reference")
    found = top_logprobs(logits, tokens, count)
    assert torch.equal(found.token_ids, want.token_ids)
    assert torch.equal(found.rank, want.rank)
    torch.testing.assert_close(found.logprobs, want.logprobs)


@pytest.mark.parametrize("runner", [name for name in RUNNERS if name.startswith("cpu")])
def test_a_row_has_the_same_bits_whatever_stands_beside_it(runner: str) -> None:
    logits = torch.randn(9, 3001, generator=torch.Generator().manual_seed(1))
    tokens = torch.arange(9)
    every = top(runner, logits, tokens, 6)
    with torch_threads(1):
        for row in range(9):
            alone = top(runner, logits, tokens[row : row + 1], 6, torch.tensor([row]))
            for one, all_ in zip(alone, every, strict=True):
                assert torch.equal(one[0], all_[row])


@pytest.mark.parametrize("runner", RUNNERS)
def test_rows_of_no_use_do_no_harm(runner: str) -> None:
    logits = torch.randn(4, 40, generator=torch.Generator().manual_seed(2))
    logits[0, 3:] = torch.nan
    logits[1] = torch.nan
    logits[2, 5] = torch.inf
    logits[3] = -torch.inf
    found = top(runner, logits, torch.tensor([0, -1, 5, 2]), 6)
    assert found.token_ids.shape == (4, 6)
    assert found.token_ids.max() < 40


@pytest.mark.parametrize("runner", [name for name in RUNNERS if name.startswith("cpu")])
def test_strided_rows(runner: str) -> None:
    wide = torch.randn(200, 200, generator=torch.Generator().manual_seed(3))
    tokens = torch.tensor([1, 2, 3, 4, 5])
    for logits in (wide[:5, 10:150], wide.t()[:5], wide[:5, ::2]):
        want = top_logprobs(logits.contiguous(), tokens, 4, backend="reference")
        found = top(runner, logits, tokens, 4)
        assert torch.equal(found.token_ids, want.token_ids)


@pytest.mark.parametrize("runner", [name for name in RUNNERS if name.startswith("cpu")])
def test_a_log_prob_does_not_depend_on_how_many_are_asked_for(runner: str) -> None:
    logits = torch.randn(3, 2000, generator=torch.Generator().manual_seed(4))
    tokens = torch.tensor([0, 1, -1])
    every = top(runner, logits, tokens, 2000)
    want = top_logprobs(logits, tokens, 2000, backend="reference")
    assert torch.equal(every.token_ids, want.token_ids)
    torch.testing.assert_close(every.logprobs, want.logprobs)
    for count in (0, 1, 2, 37, 1999):
        found = top(runner, logits, tokens, count)
        assert torch.equal(found.token_ids, every.token_ids[:, :count])
        assert torch.equal(found.logprobs, every.logprobs[:, :count])
        assert torch.equal(found.rank, every.rank)


def test_refusals() -> None:
    logits, tokens = torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64)
    for message, call in {
        "count: is 9, must be in 0..8": lambda: top_logprobs(logits, tokens, 9),
        "count: is -1": lambda: top_logprobs(logits, tokens, -1),
        r"tokens: shape is \[2\], must be \[3\]": lambda: top_logprobs(logits, tokens[:2], 1),
        "tokens: dtype is torch.int32": lambda: top_logprobs(logits, tokens.int(), 1),
        "logits: dtype is torch.int64": lambda: top_logprobs(logits.long(), tokens, 1),
        r"tokens\[0\]: is 8, must be in 0..7": lambda: top_logprobs(logits, tokens + 8, 1),
        r"row_index\[1\]: is 3, must be in 0..2": lambda: top_logprobs(
            logits, tokens[:2], 1, row_index=torch.tensor([0, 3])
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_outside_does_not_stop_a_gpu() -> None:
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    tokens, index = torch.tensor([8, 2, -1, 99]), torch.tensor([0, 3, -4, 1])
    found = _topk.top_logprobs(logits, tokens, 2, index)
    want = top_logprobs(logits, torch.tensor([2]), 2, row_index=torch.tensor([1]))
    assert torch.equal(found.token_ids[3], want.token_ids[0])  # whose token alone is outside
    torch.testing.assert_close(found.logprobs[3], want.logprobs[0])
    assert int(found.rank[2]) == 0


def test_backends() -> None:
    assert ops.chosen_backend("top_logprobs", torch.zeros(1, 1)) == "cpu"
    assert choose("top_logprobs", Facts("cuda", torch.bfloat16)) is _topk.top_logprobs
