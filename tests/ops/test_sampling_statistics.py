"""The sampler's random streams and the distribution of what it draws, tails included."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import stats

from fastsi import _ext
from fastsi.ops import SampleParams, path_key, prompt_digest, sample_tokens
from fastsi.ops.sample_tokens.stream import philox, uniform
from tests.ops.support import device_of, runners, running

RUNNERS = runners("sample_tokens")
INTERPRETED = [] if torch.cuda.is_available() else ["triton"]
"""Too slow for many draws; there, equality with the CPU's tokens stands for the distribution."""
FEWEST_EXPECTED = 5  # per bin of a chi-square test
LEAST_P = 1e-6  # seeds are fixed: a pass is a pass for ever, and a wrong sampler is far below


def many_draws(
    runner: str, logits: torch.Tensor, count: int, seed: int, **options: float
) -> torch.Tensor:
    """``count`` tokens drawn from one row of logits: 64 paths, consecutive positions."""
    keys = [path_key(seed, [1, 2, 3], path) for path in range(64)]
    per_path = -(-count // 64)
    key = torch.tensor(keys).repeat_interleave(per_path)[:count]
    position = torch.arange(per_path).repeat(64)[:count]
    chunk = 4096 if runner == "reference" else count
    device = device_of(runner)
    tokens = []
    with running(runner) as backend:
        for first in range(0, count, chunk):
            part = slice(first, first + chunk)
            params = SampleParams.build(
                key=key[part], position=position[part], device=device, **options
            )
            index = torch.zeros(params.num_rows, dtype=torch.int64, device=device)
            drawn = sample_tokens(logits[None].to(device), params, row_index=index, backend=backend)
            tokens.append(drawn.token.cpu())
    return torch.cat(tokens)


def assert_fits(tokens: torch.Tensor, probability: torch.Tensor) -> None:
    """Chi-square of the counts; bins too small to expect five draws are put together."""
    counts = torch.bincount(tokens, minlength=len(probability)).double()
    assert (counts[probability == 0] == 0).all()
    expected = probability * len(tokens)
    order = expected.argsort(descending=True)
    counts, expected = counts[order], expected[order]
    large = int((expected >= FEWEST_EXPECTED).sum())
    observed = [*counts[:large].tolist(), float(counts[large:].sum())]
    wanted = [*expected[:large].tolist(), float(expected[large:].sum())]
    if wanted[-1] < FEWEST_EXPECTED:  # too few for a bin of their own
        observed[-2:] = [sum(observed[-2:])]
        wanted[-2:] = [sum(wanted[-2:])]
    result = stats.chisquare(observed, np.array(wanted) * sum(observed) / sum(wanted))
    assert result.pvalue > LEAST_P, f"{result}, {len(observed)} bins"


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_distribution(runner: str, seed: int, dtype: torch.dtype) -> None:
    z = torch.randn(200, generator=torch.Generator().manual_seed(seed)) * 2
    count = 15_000 if runner == "reference" else 60_000  # it sorts every row
    count = 300 if runner in INTERPRETED else count
    tokens = many_draws(runner, z.to(dtype), count, seed, temperature=0.8)
    assert_fits(tokens, torch.softmax(z.double() / 0.8, 0))


@pytest.mark.parametrize("runner", RUNNERS)
def test_truncated_distribution(runner: str) -> None:
    z = torch.randn(100, generator=torch.Generator().manual_seed(5)) * 2
    count = 60 if runner in INTERPRETED else 15_000
    tokens = many_draws(runner, z, count, 3, top_k=30, min_p=0.01)
    probability = torch.softmax(z.double(), 0)
    kept = (z >= z.sort(descending=True).values[29]) & (probability >= 0.01 * probability.max())
    probability[~kept] = 0
    assert_fits(tokens, probability / probability.sum())


@pytest.mark.parametrize(
    "runner", [name for name in RUNNERS if name not in ("reference", *INTERPRETED)]
)
@pytest.mark.parametrize("where", ["first", "last"])
def test_tails(runner: str, where: str) -> None:
    """Tokens 15 to 20 below the best: together 1 draw in 4,000, each below 2^-21."""
    gap = torch.cat([torch.zeros(1), torch.linspace(15, 20, 4000)])
    z = -gap if where == "first" else -gap.flip(0)
    probability = torch.softmax(z.double(), 0)
    tokens = many_draws(runner, z, 400_000, 7)
    # Bins of equal gap: each tail token alone is too rare to count.
    label = torch.where(gap == 0, 0, 1 + (gap - 15).floor().clamp(max=4)).long()
    label = label if where == "first" else label.flip(0)
    merged = torch.zeros(6, dtype=torch.float64).index_add_(0, label, probability)
    assert_fits(label[tokens], merged)


@functools.cache
def late_uniforms() -> tuple[torch.Tensor, torch.Tensor]:
    """Keys among the first 4 million whose uniform at position 0 is above 0.9999, and these."""
    key = torch.arange(4_000_000)
    draws = torch.cat([uniform(part, torch.zeros_like(part)) for part in key.split(100_000)])
    late = draws > 0.9999
    return key[late], draws[late]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exact_inversion_in_the_tail(runner: str, dtype: torch.dtype) -> None:
    """Uniforms that fall among 60,000 tokens of 2^-30 each must pick the right one of them.

    A uniform of 24 bits, or float32 running sums, could not tell these tokens apart.
    """
    tail = 60_000
    z = torch.full((tail + 1,), -float(np.log(2.0**30)), dtype=torch.float64)
    z[0] = 0.0
    key, draws = late_uniforms()
    share = tail * 2.0**-30
    found = (draws > 1 / (1 + share)).nonzero()[:, 0]
    assert len(found) > 100  # 223 expected
    found = found[:12] if runner in INTERPRETED else found
    device = device_of(runner)
    z = z.to(device, dtype)[None]
    with running(runner) as backend:
        params = SampleParams.build(key=key[found], position=0, device=device)
        index = torch.zeros(len(found), dtype=torch.int64, device=device)
        got = sample_tokens(z, params, row_index=index, backend=backend).token.cpu()
    expected = 1 + ((draws[found] * (1 + share) - 1) * 2.0**30).floor().long()
    # In float32 the tail's weight is off by its rounding, up to 1e-6 of 60,000 tokens.
    slack = 1 if dtype == torch.float32 else 0
    assert (got - expected).abs().max() <= slack
    assert got.unique().numel() > 0.95 * len(found)


def test_philox_known_answers() -> None:
    """Vectors published with Random123 (kat_vectors, philox4x32 with 10 rounds)."""
    ones = 0xFFFFFFFF
    pi = ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0])
    cases = [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ones] * 4, [ones] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (*pi, [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ]
    for counter, key, expected in cases:
        words = philox([torch.tensor([c]) for c in counter], [torch.tensor([k]) for k in key])
        assert [int(word) for word in words] == expected
        assert list(_ext.core().philox(counter, key)) == expected


def test_uniform_is_the_same_in_cpp_and_python() -> None:
    generator = torch.Generator().manual_seed(0)
    key = torch.randint(-(2**63), 2**63 - 1, (500,), generator=generator)
    position = torch.randint(0, 2**40, (500,), generator=generator)
    expected = uniform(key, position)
    got = [
        _ext.core().uniform(k % 2**64, p)
        for k, p in zip(key.tolist(), position.tolist(), strict=True)
    ]
    assert got == expected.tolist()
    assert expected.min() >= 0
    assert expected.max() < 1


def test_uniforms_are_uniform_down_to_the_last_bit() -> None:
    key = torch.arange(2**17)
    draws = uniform(key, torch.full_like(key, 12))
    assert stats.kstest(draws.numpy(), "uniform").pvalue > LEAST_P
    bits = (draws * 2.0**53).long()
    for bit in range(53):
        share = float((bits >> bit & 1).double().mean())
        assert abs(share - 0.5) < 5 * 0.5 / len(key) ** 0.5, f"bit {bit}"


def test_streams_of_paths_are_uncorrelated() -> None:
    """Neighbouring paths, neighbouring positions, neighbouring seeds and prompts."""
    positions = torch.arange(10_000)

    def stream(seed: int, prompt: list[int], path: int) -> torch.Tensor:
        key = torch.full_like(positions, path_key(seed, prompt, path))
        return uniform(key, positions) - 0.5

    base = stream(0, [5, 6], 0)
    others = [
        stream(0, [5, 6], 1),
        stream(1, [5, 6], 0),
        stream(0, [5, 7], 0),
        stream(-1, [5, 6], 0),
        base.roll(1),
        base.roll(2),
    ]
    for other in others:
        correlation = float((base * other).mean() * 12)
        assert abs(correlation) < 5 / len(positions) ** 0.5


def test_path_keys() -> None:
    keys = {
        path_key(seed, prompt, path)
        for seed in (0, 1, -1, 2**63 - 1, -(2**63))
        for prompt in ([], [0], [0, 0], [1, 2, 3], [3, 2, 1])
        for path in range(200)
    }
    assert len(keys) == 5 * 5 * 200
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert path_key(3, [1, 2], 4) == path_key(3, prompt_digest([1, 2]), 4)
    assert path_key(3, torch.tensor([1, 2]).tolist(), 4) == path_key(3, (1, 2), 4)
    # Pinned: a change would silently change every run of every user.
    assert path_key(0, [1, 2, 3], 0) == 5895205650425292854
