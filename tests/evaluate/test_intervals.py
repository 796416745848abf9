"""Intervals: against closed forms, against simulation, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastsi.evaluate import bootstrap_difference, bootstrap_mean, wilson


@given(total=st.integers(1, 5000), data=st.data())
def test_wilson_matches_scipy(total: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, total))
    expected = stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
    low, high = wilson(successes, total)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0.0 <= low <= successes / total <= high <= 1.0


def test_wilson_without_trials_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "total"), [(-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, total)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bootstrap_matches_the_normal_interval_on_many_values(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.4, 0.2, size=2000)
    half = 1.96 * values.std() / math.sqrt(values.size)
    low, high = bootstrap_mean(values, seed=seed)
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_bootstrap_covers_the_true_mean_at_its_stated_rate() -> None:
    random = np.random.default_rng(7)
    covered = 0
    runs = 300
    for run in range(runs):
        low, high = bootstrap_mean(random.beta(2, 3, size=60), seed=run)
        covered += low <= 0.4 <= high
    # 95 % of 300 is 285; five standard deviations of the count are 19.
    assert covered >= 266


def test_bootstrap_is_the_same_for_the_same_seed_and_in_small_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) == whole
    assert bootstrap_mean(values, seed=2) != whole
    monkeypatch.setattr("fastsi.evaluate.intervals._BLOCK", 777)
    assert bootstrap_mean(values, seed=1) == whole


def test_pairing_removes_what_questions_have_in_common() -> None:
    random = np.random.default_rng(5)
    difficulty = random.random(400)
    before, after = difficulty, difficulty + 0.05 + random.normal(0, 0.01, 400)
    low, high = bootstrap_difference(before, after)
    assert 0.04 < low < 0.05 < high < 0.06
    shuffled = bootstrap_difference(before, random.permutation(after))
    assert shuffled[1] - shuffled[0] > 5 * (high - low)


def test_bootstrap_refuses_nothing_and_unpaired_values() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="2 questions, after has 1"):
        bootstrap_difference([0.0, 1.0], [1.0])
