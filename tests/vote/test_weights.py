"""Weighted votes: the formulas of fastsi.vote.weights, their invariances, and odd values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsi.errors import ConfigError
from fastsi.types import Logprob
from fastsi.vote import SCHEMES, WeightConfig, majority, path_weights, token_confidences, vote
from fastsi.vote.weights import softmax

KEYS = st.lists(st.sampled_from([None, "num:1", "num:2", "num:3"]), min_size=1, max_size=12)
ANY = st.floats(allow_nan=True, allow_infinity=False) | st.just(-math.inf)
TOKENS = st.lists(st.floats(-20.0, 0.0), min_size=1, max_size=12)
NAMES = ["uniform", "logprob_sum", "logprob_mean", "cisc:0.5", "window:3"]


def of(weights: Sequence[float] | None) -> list[float]:
    assert weights is not None
    return list(weights)


def test_the_formulas_by_hand() -> None:
    paths = [[-1.0, -3.0], [-2.0], [-0.5, -0.5, -0.5]]
    sums, means = [-4.0, -2.0, -1.5], [-2.0, -2.0, -0.5]

    def expected(scores: list[float]) -> list[float]:
        powers = [math.exp(score) for score in scores]
        return [3 * power / sum(powers) for power in powers]

    assert path_weights("uniform", None) is None
    assert of(path_weights("logprob_sum", paths)) == pytest.approx(expected(sums))
    assert of(path_weights("logprob_sum", sums)) == pytest.approx(expected(sums))
    assert of(path_weights("logprob_mean", paths)) == pytest.approx(expected(means))
    again = path_weights("logprob_mean", sums, num_tokens=[2, 1, 3])
    assert of(again) == pytest.approx(expected(means))
    cooler = [mean / 0.25 for mean in means]
    assert of(path_weights("cisc:0.25", paths)) == pytest.approx(expected(cooler))
    assert path_weights("cisc:1", paths) == path_weights("logprob_mean", paths)
    # The least confident window of 2: (-1, -3); the whole of (-2); any of the last.
    assert of(path_weights("window:2", paths)) == pytest.approx(expected([-2.0, -2.0, -0.5]))
    assert of(path_weights("window:1", paths)) == pytest.approx(expected([-3.0, -2.0, -0.5]))


def test_window_with_confidences_is_the_papers() -> None:
    # DeepConf weighs a vote by the lowest mean confidence of a group of W tokens.
    confidences = [[8.0, 2.0, 4.0, 9.0], [6.0, 6.0]]
    assert of(path_weights("window:2", None, confidences=confidences)) == pytest.approx(
        [2 * 3.0 / 9.0, 2 * 6.0 / 9.0]
    )
    flat, peaked = math.log(0.5), math.log(0.999)
    tokens = [
        {7: Logprob(flat), 8: Logprob(flat)},
        {7: Logprob(peaked), 8: Logprob(math.log(0.001)), 9: Logprob(-30.0)},  # 9 was drawn
    ]
    found = token_confidences(tokens, 2)
    assert found == pytest.approx([math.log(2.0), -(peaked + math.log(0.001)) / 2])
    assert found[1] > found[0]
    with pytest.raises(ConfigError, match="logprobs=1"):
        token_confidences(tokens, 1)
    with pytest.raises(ConfigError, match="2 values at a token where 3"):
        token_confidences(tokens, 3)


@given(st.lists(TOKENS, min_size=1, max_size=8), st.integers(1, 14))
def test_window_matches_the_literal_definition(paths: list[list[float]], window: int) -> None:
    def least(path: list[float]) -> float:
        size = min(window, len(path))
        return min(
            math.fsum(path[begin : begin + size]) / size for begin in range(len(path) - size + 1)
        )

    expected = softmax([least(path) for path in paths])
    assert of(path_weights(f"window:{window}", paths)) == pytest.approx(expected, rel=1e-9)


@given(st.lists(TOKENS, min_size=1, max_size=8), st.sampled_from(NAMES), st.randoms())
def test_weights_go_with_their_paths(paths: list[list[float]], name: str, random) -> None:
    weights = path_weights(name, paths)
    if weights is None:
        assert name == "uniform"
        return
    assert math.fsum(weights) == pytest.approx(len(paths))
    order = list(range(len(paths)))
    random.shuffle(order)
    assert path_weights(name, [paths[index] for index in order]) == [weights[i] for i in order]


@given(st.lists(st.floats(-1e6, 0.0), min_size=1, max_size=8), st.floats(-1e6, 1e6))
def test_softmax_does_not_see_a_shift(scores: list[float], shift: float) -> None:
    moved = softmax([score + shift for score in scores])
    assert moved == pytest.approx(softmax(scores), rel=1e-6, abs=1e-9)


@given(st.lists(ANY, max_size=8), st.sampled_from([1e-300, 0.5, 1.0, 1e300]))
def test_softmax_of_anything(scores: list[float], temperature: float) -> None:
    weights = softmax(scores, temperature)
    assert len(weights) == len(scores)
    assert all(0.0 <= weight <= len(scores) * (1 + 1e-12) for weight in weights)
    if scores:
        assert math.fsum(weights) == pytest.approx(len(scores))
    known = [score for score in scores if score > -math.inf]  # NaN is not
    for score, weight in zip(scores, weights, strict=True):
        if known and not score > -math.inf:
            assert weight == 0.0
        if not known:
            assert weight == 1.0


@given(KEYS, st.data())
def test_equal_weights_are_the_plain_vote(keys: list[str | None], data) -> None:
    logprobs = data.draw(st.lists(st.floats(-9, 0), min_size=len(keys), max_size=len(keys)))
    plain = majority(keys, logprobs)
    weight = data.draw(st.sampled_from([1.0, 0.1, 3.0, 1e-300, 1e300]))
    same = majority(keys, logprobs, weights=[weight] * len(keys))
    assert (same.winner, same.counts, same.share) == (plain.winner, plain.counts, plain.share)
    assert (same.margin, same.entropy, same.tie) == (plain.margin, plain.entropy, plain.tie)
    assert plain.weights is None
    assert same.weights == plain.counts


@given(KEYS, st.data())
def test_weighted_vote_matches_the_literal_definition(keys: list[str | None], data) -> None:
    weights = data.draw(
        st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(keys), max_size=len(keys))
    )
    outcome = majority(keys, weights=weights)
    mass = {key: 0.0 for key in keys if key is not None}
    for key, weight in zip(keys, weights, strict=True):
        if key is not None:
            mass[key] += weight
    assert set(outcome.counts) == set(mass)
    if not mass:
        assert (outcome.winner, outcome.weights) == (None, {})
        return
    assert outcome.winner is not None
    assert mass[outcome.winner] == max(mass.values())
    # Abstentions keep their weight: the share is of all paths.
    assert outcome.share == pytest.approx(mass[outcome.winner] / sum(weights))
    assert outcome.weights == pytest.approx(
        {key: value * len(keys) / sum(weights) for key, value in mass.items()}
    )
    assert list(outcome.weights.values()) == sorted(outcome.weights.values(), reverse=True)
    others = [count for key, count in outcome.counts.items() if key != outcome.winner]
    assert outcome.margin == outcome.counts[outcome.winner] - max(others, default=0)


def test_a_likely_answer_overrules_the_count() -> None:
    texts = ["The answer is 3.", "The answer is 4.", "The answer is 4.", "hm"]
    logprobs = [[-0.1, -0.1], [-4.0, -4.0], [-5.0], [-0.1]]
    outcome = vote(texts, logprobs=logprobs, weights="logprob_mean")
    assert (outcome.winner, outcome.margin) == ("num:3", -1)
    assert list(outcome.counts.items()) == [("num:3", 1), ("num:4", 2)]
    assert 0.4 < outcome.share < 0.5  # the path without an answer is as likely, and abstains
    assert vote(texts, logprobs=logprobs).winner == "num:4"
    by_hand = vote(texts, weights=[5.0, 1.0, 1.0, 0.0])
    assert (by_hand.winner, by_hand.share) == ("num:3", pytest.approx(5 / 7))


def test_paths_that_say_nothing_weigh_nothing() -> None:
    nan, inf = math.nan, math.inf
    assert softmax([-1.0, nan, -inf]) == [3.0, 0.0, 0.0]
    assert softmax([nan, -inf]) == [1.0, 1.0]
    assert path_weights("logprob_mean", [[-1.0], []]) == [2.0, 0.0]
    assert path_weights("window:2", [[-1.0, -1.0], [-1.0, nan], [-inf, 0.0, 0.0], []]) == [
        4.0, 0.0, 0.0, 0.0,
    ]  # fmt: skip
    assert path_weights("window:1", None, confidences=[[2.0], [nan], [-1.0]]) == [3.0, 0.0, 0.0]
    assert vote([], logprobs=[], weights="logprob_sum").winner is None
    for name in NAMES:
        assert vote([], logprobs=[], weights=name).n == 0
    with pytest.raises(ConfigError, match="is \\+inf"):
        softmax([inf, 0.0])
    huge = vote(["The answer is 3."] * 2, logprobs=[-1.7e308] * 2, weights="logprob_sum")
    assert huge.share == 1.0


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("logprob_maen", ["unknown weights", "did you mean 'logprob_mean'", "window:W"]),
        ("cisc", ["cisc:T", "T > 0"]),
        ("cisc:0", ["weights='cisc:0'", "T > 0"]),
        ("cisc:nan", ["T > 0"]),
        ("cisc:inf", ["T > 0"]),
        ("window", ["window:W"]),
        ("window:0", ["W >= 1"]),
        ("window:2.5", ["W >= 1"]),
        ("uniform:2", ["takes no parameter"]),
        (7, ["weights=7"]),
    ],
)
def test_bad_names(weights: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        WeightConfig.parse(weights)
    for word in words:
        assert word in str(caught.value)


def test_every_scheme_has_a_spelling_that_parses() -> None:
    for scheme in SCHEMES:
        assert WeightConfig.parse(scheme.replace(":T", ":0.5").replace(":W", ":5"))


def test_what_is_missing_is_named() -> None:
    texts = ["The answer is 3."] * 2
    with pytest.raises(ConfigError, match="needs the paths' log-probabilities"):
        vote(texts, weights="logprob_sum")
    with pytest.raises(ConfigError, match=r"logprob_mean.*num_tokens"):
        vote(texts, logprobs=[-1.0, -2.0], weights="logprob_mean")
    with pytest.raises(ConfigError, match=r"window:4.*every token"):
        vote(texts, logprobs=[-1.0, -2.0], weights="window:4")
    with pytest.raises(ConfigError, match="num_tokens: 1 values for 2 paths"):
        vote(texts, logprobs=[-1.0, -2.0], num_tokens=[1], weights="cisc:1")
    with pytest.raises(ConfigError, match="confidences: 1 values for 2 paths"):
        vote(texts, confidences=[[1.0]], weights="window:4")
    with pytest.raises(ConfigError, match="weights: 1 values for 2 paths"):
        vote(texts, weights=[1.0])
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"weights\[1\]="):
            majority(["num:1", "num:2"], weights=[1.0, bad])
    with pytest.raises(ConfigError, match="all are 0"):
        majority(["num:1", "num:2"], weights=[0.0, 0.0])
