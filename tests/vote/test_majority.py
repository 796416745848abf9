"""The vote: abstention, ties, order, and agreement with a literal definition."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsi.errors import ConfigError
from fastsi.types import Vote
from fastsi.vote import majority, vote

KEYS = st.lists(st.sampled_from([None, "num:1", "num:2", "num:3", "choice:a"]), max_size=24)


def test_vote_over_texts() -> None:
    texts = ["The answer is 18.", "#### 18", "The answer is 7.", "I do not know.", "\\boxed{18.0}"]
    outcome = vote(texts)
    assert outcome == Vote(
        winner="num:18",
        counts={"num:18": 3, "num:7": 1},
        n=5,
        votes=4,
        share=0.6,
        margin=2,
        entropy=-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)),
        tie=False,
        stop_reason="full",
        keys=("num:18", "num:18", "num:7", None, "num:18"),
    )


def test_abstentions_never_win() -> None:
    outcome = majority([None, None, None, "num:1"])
    assert (outcome.winner, outcome.share, outcome.votes) == ("num:1", 0.25, 1)
    nobody = majority([None, None], stop_reason="beta")
    assert (nobody.winner, nobody.share, nobody.margin, nobody.n) == (None, 0.0, 0, 2)
    assert (dict(nobody.counts), nobody.tie, nobody.stop_reason) == ({}, False, "beta")
    assert majority([]).winner is None


def test_ties_go_to_the_likelier_answer_then_to_the_first_path() -> None:
    keys = ["num:1", "num:2", "num:2", "num:1"]
    assert majority(keys).winner == "num:1"
    assert majority(keys).tie
    assert majority(keys, [-9.0, -1.0, -1.0, -1.0]).winner == "num:2"
    assert majority(keys, [-1.0, -1.0, -1.0, -1.0]).winner == "num:1"
    assert list(majority(keys, [-9.0, -1.0, -1.0, -1.0]).counts) == ["num:2", "num:1"]
    # More votes beat any likelihood.
    clear = majority(["num:1", "num:2", "num:2"], [0.0, -99.0, -99.0])
    assert (clear.winner, clear.tie, clear.margin) == ("num:2", False, 1)


def test_a_path_without_a_usable_logprob_loses_ties() -> None:
    assert majority(["num:1", "num:2"], [math.nan, -50.0]).winner == "num:2"
    assert majority(["num:1", "num:2"], [-math.inf, -50.0]).winner == "num:2"
    assert majority(["num:1", "num:2"], [math.nan, -math.inf]).winner == "num:1"


def test_paths_that_are_not_given_count_against() -> None:
    outcome = majority(["num:1", "num:1"], n=8)
    assert (outcome.share, outcome.n, outcome.votes) == (0.25, 8, 2)


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 values for 2 paths"):
        majority(["num:1", "num:1"], [-1.0])
    with pytest.raises(ConfigError, match="n=1"):
        vote(["The answer is 1.", ""], n=1)
    with pytest.raises(ConfigError, match="did you mean 'hash'"):
        vote([], extractor="hashes")


@given(KEYS, st.randoms(use_true_random=False))
def test_matches_the_literal_definition(keys: list[str | None], random) -> None:
    logprobs = [random.choice([-3.0, -2.5, -1.0]) for _ in keys]
    outcome = majority(keys, logprobs)
    counts = Counter(key for key in keys if key is not None)
    assert outcome.counts == counts
    assert list(outcome.counts.values()) == sorted(counts.values(), reverse=True)
    assert outcome.keys == tuple(keys)
    assert 0.0 <= outcome.share <= 1.0
    if not counts:
        assert outcome.winner is None
        return
    most = max(counts.values())
    leaders = [key for key in counts if counts[key] == most]

    def rank(key: str) -> tuple[float, int]:
        return -sum(w for k, w in zip(keys, logprobs, strict=True) if k == key), keys.index(key)

    assert outcome.winner == min(leaders, key=rank)
    assert outcome.tie == (len(leaders) > 1)
    assert outcome.share == most / len(keys)
    second = sorted(counts.values(), reverse=True)[1] if len(counts) > 1 else 0
    assert outcome.margin == most - second
    total = sum(counts.values())
    entropy = -sum(c / total * math.log(c / total) for c in counts.values())
    assert outcome.entropy == pytest.approx(entropy, abs=1e-12)
    assert outcome.entropy <= math.log(len(counts)) + 1e-12


@given(KEYS, st.randoms(use_true_random=False))
def test_the_winner_does_not_depend_on_the_order_of_paths(keys: list[str | None], random) -> None:
    # Distinct powers of two: no two answers have the same total.
    logprobs = [-(2.0**-index) for index in range(len(keys))]
    paths = list(zip(keys, logprobs, strict=True))
    random.shuffle(paths)
    shuffled = majority([key for key, _ in paths], [logprob for _, logprob in paths])
    straight = majority(keys, logprobs)
    assert shuffled.winner == straight.winner
    assert list(shuffled.counts.items()) == list(straight.counts.items())
