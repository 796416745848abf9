"""The Triton backend of `sample_tokens`: the CPU's tokens, and each of its ways to a draw."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from fastsi.ops import SampledTokens, SampleParams, sample_tokens
from fastsi.ops.sample_tokens.stream import uniform
from tests.ops.support import device_of

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from fastsi.ops.sample_tokens import _triton

DEVICE = device_of("triton")
BLOCK, TILE, STEP = _triton.BLOCK, _triton.TILE, _triton.STEP


def on_cpu(drawn: SampledTokens) -> list[torch.Tensor]:
    names = ("token", "logprob", "logprob_full", "kept_mass")
    return [getattr(drawn, name).cpu() for name in names]


def logits_with_ties(rows: int, vocab: int) -> torch.Tensor:
    z = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    z[:, ::2] = z[:, ::2].round()
    return z


def near_an_edge(z: torch.Tensor, params: SampleParams, token: torch.Tensor) -> torch.Tensor:
    """Rows whose uniform lies within 1e-6 of the total of an end of the token's interval."""
    weight = torch.softmax(z.double() / params.temperature.double()[:, None], 1)
    end = weight.cumsum(1).gather(1, token[:, None])[:, 0]
    start = end - weight.gather(1, token[:, None])[:, 0]
    u = uniform(params.key, params.position)
    return torch.minimum((u - start).abs(), (u - end).abs()) < 1e-6


@pytest.mark.parametrize(
    "vocab",
    [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, TILE - 1, TILE, TILE + 1, TILE + BLOCK, 2 * TILE + 1],
)
def test_the_cpus_tokens_at_the_edges_of_blocks(vocab: int) -> None:
    rows = 16
    z = logits_with_ties(rows, vocab)
    z[:4] = torch.linspace(0, 1, 4)[:, None]  # every token as likely: all blocks get draws
    z[4:8, : vocab - 1] -= 100  # all the weight in the last token
    temperature = [0.0, *([0.7] * (rows - 1))]
    options = {"key": range(rows), "position": range(rows), "temperature": temperature}
    expected = sample_tokens(z, SampleParams.build(**options), backend="cpu")
    params = SampleParams.build(**options, device=DEVICE)
    got = on_cpu(sample_tokens(z.to(DEVICE), params, backend="triton"))
    same = got[0] == expected.token
    assert (same | near_an_edge(z, SampleParams.build(**options), expected.token)).all()
    assert same.sum() >= rows - 1
    for ours, theirs in zip(got[1:], on_cpu(expected)[1:], strict=True):
        torch.testing.assert_close(ours[same], theirs[same], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("candidates", [0, 3, STEP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocab", [STEP - 1, STEP, STEP + 1])
def test_truncation_with_few_and_too_many_candidates(
    candidates: int, dtype: torch.dtype, vocab: int
) -> None:
    """Rows of every setting in one launch, from gathered tokens and from the logits themselves."""
    settings: list[dict[str, Any]] = [
        {"top_k": 1},
        {"top_k": 5},
        {"top_p": 0.3},
        {"min_p": 0.2},
        {"top_k": 40, "top_p": 0.6, "min_p": 0.01},
        {},
    ]
    rows = len(settings)
    z = logits_with_ties(rows, vocab).to(dtype)
    names = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    columns = {name: [s.get(name, rest) for s in settings] for name, rest in names.items()}
    options = {"key": range(rows), "position": 3} | columns
    expected = sample_tokens(z, SampleParams.build(**options), backend="reference")
    params = SampleParams.build(**options, device=DEVICE)
    got = _triton.sample_tokens(z.to(DEVICE), params, None, None, candidates=candidates)
    assert torch.equal(got.token.cpu(), expected.token)
    for ours, theirs in zip(on_cpu(got)[1:], on_cpu(expected)[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def test_gathering_stores_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies behind the gathered tokens of a row stays as it was."""
    made: list[torch.Tensor] = []
    empty = torch.empty

    def marked(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        if tensor.dim() == 2 and tensor.dtype == torch.int32:
            made.append(tensor.fill_(-7))
        return tensor

    monkeypatch.setattr(torch, "empty", marked)
    z = logits_with_ties(2, 3 * STEP).to(DEVICE)
    params = SampleParams.build(key=[1, 2], position=0, top_k=[0, 3000], device=DEVICE)
    _triton.sample_tokens(z, params, None, None, candidates=10)
    assert (made[0][0] == -7).all()  # nothing is gathered for a row without truncation
    # One step, then the gathering knows that there are too many.
    assert (made[0][1] == torch.arange(STEP + 10, device=DEVICE))[:STEP].all()
    assert (made[0][1, STEP:] == -7).all()


def test_unchecked_rows_without_a_result_get_no_token() -> None:
    z = torch.zeros(3, 10, device=DEVICE)
    z[1] = -torch.inf
    params = SampleParams.build(key=range(4), position=0, device=DEVICE)
    index = torch.tensor([0, 1, 3, 2], device=DEVICE)
    drawn = sample_tokens(z, params, row_index=index, check=False, backend="triton")
    assert (drawn.token.cpu() < 0).tolist() == [False, True, True, False]
