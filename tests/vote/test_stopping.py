"""Stopping rules: what they promise, checked on all short sequences and on random long ones."""

from __future__ import annotations

import itertools
import json
import math
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.errors import ConfigError
from fastsi.vote import majority
from fastsi.vote.stopping import (
    Beta,
    Exact,
    Rule,
    Stop,
    Tally,
    VoteController,
    Window,
    beta_table,
    decide,
    parse_rule,
)

KEYS = ("num:1", "num:2", "num:3", None)
RULES: tuple[Rule, ...] = (Exact(), Beta(0.95), Beta(0.6), Window(3), Window(1))
sequences = st.lists(st.sampled_from(KEYS), min_size=1, max_size=60)


def probability(a: int, b: int) -> Fraction:
    """1 - I_{1/2}(a + 1, b + 1), as a binomial sum."""
    size = a + b + 1
    return Fraction(sum(math.comb(size, k) for k in range(a + 1)), 2**size)


@pytest.mark.parametrize("n", range(1, 8))
def test_exact_never_changes_a_winner_exhaustively(n: int) -> None:
    """Every sequence of n answers, under either order of log-probabilities."""
    for keys in itertools.product(KEYS, repeat=n):
        stop = decide("exact", keys)
        assert stop is not None
        for logprobs in (list(range(n)), list(range(n, 0, -1))):
            want = majority(keys, logprobs).winner
            assert majority(keys[: stop.at], logprobs[: stop.at]).winner == want
        if stop.at < n:
            assert not majority(keys).tie


@settings(max_examples=400, deadline=None)
@given(sequences, st.randoms(use_true_random=False))
def test_exact_never_changes_a_winner(keys: list[str | None], rng: random.Random) -> None:
    stop = decide("exact", keys)
    assert stop is not None
    logprobs = [rng.uniform(-9, 0) for _ in keys]
    short = majority(keys[: stop.at], logprobs[: stop.at], stop_reason=stop.reason)
    assert short.winner == majority(keys, logprobs).winner
    assert (stop.reason == "full") == (stop.at == len(keys))


@settings(max_examples=300, deadline=None)
@given(sequences)
def test_exact_stops_as_soon_as_it_may(keys: list[str | None]) -> None:
    """Before the stop some continuation changes the winner, or makes a tie that could."""
    stop = decide("exact", keys)
    assert stop is not None
    for at in range(stop.at):
        counts = majority(keys[:at]).counts
        rival = (list(counts)[1:] or ["num:new"])[0]
        end = majority([*keys[:at], *[rival] * (len(keys) - at)])
        assert end.tie or end.winner != next(iter(counts), None)


def test_beta_table_of_the_paper() -> None:
    assert beta_table(0.95, 40)[:6] == (4, 6, 8, 9, 11, 12)
    assert beta_table(0.99, 40)[:4] == (6, 9, 11, 13)


@pytest.mark.parametrize("confidence", [0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
def test_beta_table_is_the_binomial_sum_and_rises(confidence: float) -> None:
    n = 90
    table = beta_table(confidence, n)
    limit = Fraction(repr(confidence))
    for b, a in enumerate(table):
        assert probability(a, b) > limit
        assert probability(a - 1, b) <= limit
    assert list(table) == sorted(table)
    assert all(a > b for b, a in enumerate(table))
    assert all(a + b <= n for b, a in enumerate(table))
    after = len(table)
    assert probability(n - after, after) <= limit  # no room for one more entry
    assert beta_table(confidence, 40) == table[: len(beta_table(confidence, 40))]


def test_beta_table_agrees_with_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    for b, a in enumerate(beta_table(0.95, 200)):
        assert 1 - special.betainc(a + 1, b + 1, 0.5) > 0.95
        assert 1 - special.betainc(a, b + 1, 0.5) <= 0.95


@pytest.mark.parametrize(
    ("rule", "keys", "n", "stop"),
    [
        ("exact", "AAA", 5, Stop(3, "exact")),
        ("exact", "AABB", 5, None),
        ("exact", "AAB", 4, None),  # one path left could make it 2 to 2
        ("exact", "AA-", 3, Stop(2, "exact")),
        ("exact", "---", 3, Stop(3, "full")),
        ("beta:0.95", "AAAAA", 40, Stop(4, "beta")),
        ("beta:0.95", "AAAB", 40, None),
        ("beta:0.95", "ABAAAAA", 40, Stop(7, "beta")),
        ("beta:0.95", "A-AA-A", 40, Stop(6, "beta")),
        ("beta:0.95", "AAA", 3, Stop(3, "full")),
        ("window:3", "ABBB", 9, Stop(4, "window")),
        ("window:3", "BB-BBB", 9, Stop(6, "window")),
        ("window:2", "----", 9, None),
        ("none", "AAAA", 9, None),
        (None, "AAAA", 4, Stop(4, "full")),
    ],
)
def test_decisions(rule: str | None, keys: str, n: int, stop: Stop | None) -> None:
    assert decide(rule, [None if key == "-" else key for key in keys], n) == stop


@settings(max_examples=200, deadline=None)
@given(sequences, st.sampled_from(RULES))
def test_missing_is_the_fewest_paths_that_can_stop(keys: list[str | None], rule: Rule) -> None:
    n = len(keys) + 7
    tally = Tally(n)
    for key in keys:
        tally.add(key)
    if decide(rule, keys, n) is not None:
        return
    more = tally.missing(rule)
    assert 1 <= more <= n - len(keys)
    answers = [*{key for key in keys if key is not None}, "num:9"]
    reached = [
        stop.at
        for key in answers
        if (stop := decide(rule, [*keys, *[key] * (n - len(keys))], n)) is not None
    ]
    assert min(reached) == len(keys) + more


def test_rules_are_read_from_text_and_written_back() -> None:
    for text, rule in (
        ("exact", Exact()),
        ("beta:0.95", Beta()),
        ("beta:0.9", Beta(0.9)),
        ("window:5", Window()),
        ("window:7", Window(7)),
    ):
        assert parse_rule(text) == rule
        assert str(rule) == text
        assert parse_rule(rule) is rule
    assert parse_rule("beta") == Beta()
    assert parse_rule("window") == Window()
    assert parse_rule("none") is None
    assert parse_rule(None) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("exat", "unknown stopping rule 'exat'; did you mean 'exact'"),
        ("bet:0.9", "did you mean 'beta'"),
        ("beta:1", r"beta takes a confidence in \[0.5, 1\), such as beta:0.95"),
        ("beta:x", "beta takes a confidence"),
        ("beta:nan", "beta takes a confidence"),
        ("window:0", "window takes a number of paths >= 1, such as window:5"),
        ("window:2.5", "window takes"),
        ("exact:3", "exact takes no number"),
        (5, "must be a rule, its name, or None"),
    ],
)
def test_bad_rules_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_rule(text)


@pytest.mark.parametrize("wave", [0, -1, 2.0, True, "all"])
def test_bad_waves_are_refused(wave: object) -> None:
    with pytest.raises(ConfigError, match="wave="):
        VoteController(Exact(), 8, wave=wave)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(
    sequences,
    st.sampled_from((*RULES, None)),
    st.sampled_from(("auto", 1, 5, 99)),
    st.randoms(use_true_random=False),
)
def test_a_controller_decides_by_path_order_alone(
    keys: list[str | None], rule: Rule | None, wave: int, rng: random.Random
) -> None:
    """Paths of index below ``wanted`` end in any order; the decision is that of the replay."""
    controller = VoteController(rule, len(keys), wave=wave)  # type: ignore[arg-type]
    running: list[int] = []
    started = 0
    at = None
    while at is None:
        assert controller.wanted > len(controller.keys)
        running += range(started, controller.wanted)
        started = max(started, controller.wanted)
        index = running.pop(rng.randrange(len(running)))
        key = keys[index]
        text = "no idea" if key is None else f"The answer is {key.removeprefix('num:')}."
        at = controller.finished(index, text)
    assert controller.stop == decide(rule, keys)
    assert at == controller.stop.at
    assert controller.keys == keys[:at]
    assert controller.finished(at, "The answer is 7.") == at  # late paths change nothing


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_on_recorded_paths_exact_changes_no_winner_and_beta_hardly_any(level: str) -> None:
    """120 questions with 40 paths of the bundled model each."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "vote" / "data"
    stored = json.loads((folder / f"keys_{level}.json").read_text(encoding="utf-8"))
    questions = [
        [None if path < 0 else each["answers"][path] for path in each["paths"]]
        for each in stored["questions"]
    ]
    assert len(questions) >= 100
    assert {len(keys) for keys in questions} == {40}
    saved, changed = dict.fromkeys(("exact", "beta:0.95"), 0), 0
    for keys in questions:
        for rule in saved:
            stop = decide(rule, keys)
            assert stop is not None
            saved[rule] += len(keys) - stop.at
            same = majority(keys[: stop.at]).winner == majority(keys).winner
            assert same or rule != "exact"
            changed += not same
    assert 0 < saved["exact"] < saved["beta:0.95"]
    assert changed <= 0.1 * len(questions)
