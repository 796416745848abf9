"""Scores against counts made by hand and against a literal reference."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsi import vote
from fastsi.errors import DataError
from fastsi.evaluate import (
    METRICS,
    GoldAnswer,
    ScoredQuestion,
    calibrate,
    compare,
    score_question,
    summarise,
)


def row(
    name: str = "q",
    *,
    paths: int = 4,
    correct: int = 2,
    parsed: int | None = None,
    greedy: bool = True,
    majority: bool = True,
    share: float = 0.5,
) -> ScoredQuestion:
    return ScoredQuestion(
        id=name,
        gold="num:1",
        greedy_answer="num:1" if greedy else "num:2",
        winner="num:1" if majority else None,
        paths=paths,
        correct=correct,
        parsed=paths if parsed is None else parsed,
        share=share,
        with_equations=0,
        equations_true=0,
    )


def test_one_question_by_hand() -> None:
    texts = [
        "3 + 4 = 7. The answer is 7.",
        "3 + 4 = 8. The answer is 7.00",
        "3 + 4 = 7, then 7 * 2 = 15. The answer is 15.",
        "Nothing comes to mind",
        "The answer is 15.",
    ]
    scored = score_question(
        "q1", GoldAnswer(answer="7", key="num:7"), "The answer is 15.", texts, [-9, -9, -1, 0, -1]
    )
    assert scored == ScoredQuestion(
        id="q1",
        gold="num:7",
        greedy_answer="num:15",
        winner="num:15",  # two votes each; its summed log-probability is higher
        paths=5,
        correct=2,
        parsed=4,
        share=2 / 5,
        with_equations=3,
        equations_true=1,
    )
    summary = summarise([scored], pass_at=(1, 2, 5))
    assert (summary.greedy, summary.majority, summary.consistency) == (0.0, 0.0, 0.4)
    assert (summary.sample, summary.parse_rate) == (0.4, 0.8)
    assert summary.with_equations == pytest.approx(3 / 5)
    assert summary.equations_true == pytest.approx(1 / 3)
    assert summary.counts["sample"] == 2
    # Of the ten pairs of five paths three hold no right one.
    assert summary.pass_at == {1: pytest.approx(0.4), 2: pytest.approx(0.7), 5: 1.0}


@pytest.mark.parametrize("seed", range(5))
def test_summary_equals_a_literal_count(seed: int) -> None:
    draw = random.Random(seed)
    rows, texts = [], []
    for index in range(30):
        answers = [draw.choice(["3", "3", "4", "5", ""]) for _ in range(6)]
        texts.append([f"The answer is {a}." if a else "no idea" for a in answers])
        greedy = draw.choice(["The answer is 3.", "The answer is 4.", "hm"])
        gold = GoldAnswer(answer="3", key="num:3")
        rows.append(score_question(f"q{index}", gold, greedy, texts[-1], [0.0] * 6))
    summary = summarise(rows, pass_at=(3,))
    keys = [[vote.answer_key(text) for text in group] for group in texts]
    flat = list(itertools.chain.from_iterable(keys))
    assert summary.n_problems == 30
    assert summary.paths == 6
    assert summary.sample == pytest.approx(flat.count("num:3") / 180)
    assert summary.parse_rate == pytest.approx(1 - flat.count(None) / 180)
    shares = [max([g.count(k) for k in g if k] or [0]) / 6 for g in keys]
    assert summary.consistency == pytest.approx(sum(shares) / 30)
    winners = [vote.majority(group).winner for group in keys]
    assert summary.majority == pytest.approx(winners.count("num:3") / 30)
    trios = [any(t) for g in keys for t in itertools.combinations([k == "num:3" for k in g], 3)]
    assert summary.pass_at[3] == pytest.approx(sum(trios) / len(trios))
    for name in METRICS:
        low, high = summary.intervals[name]
        assert 0 <= low <= getattr(summary, name) <= high <= 1
        assert low < high


def test_json_has_fractions_counts_and_intervals() -> None:
    record = summarise([row("a"), row("b", greedy=False)], pass_at=(2,)).to_json()
    assert record["greedy"] == 0.5
    assert record["n_problems"] == 2
    assert record["counts"]["greedy"] == 1
    assert set(METRICS) <= set(record["intervals"])
    assert all(len(ends) == 2 for ends in record["intervals"].values())
    assert set(record["pass_at"]) == {"2"}
    assert record["equations_true"] is None


def test_ragged_rows_and_impossible_k_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of paths"):
        summarise([row(paths=4), row(paths=5)])
    with pytest.raises(ValueError, match=r"pass_at=5: must be in 1\.\.4"):
        summarise([row(paths=4)], pass_at=(5,))
    with pytest.raises(ValueError, match="at least one"):
        summarise([])


def test_comparison_pairs_by_id_not_by_order() -> None:
    before = [row(f"q{i}", greedy=i % 4 == 0, share=0.2) for i in range(40)]
    after = [row(f"q{i}", greedy=i % 2 == 0, share=0.9) for i in reversed(range(40))]
    change = compare(before, after)
    assert change["greedy"].change == pytest.approx(0.25)
    assert 0.1 < change["greedy"].low < 0.25 < change["greedy"].high < 0.45
    # Every question moved by the same amount, which only pairing by id can see.
    assert change["consistency"].low == pytest.approx(0.7)
    assert change["consistency"].high == pytest.approx(0.7)


@pytest.mark.parametrize("other", [["a", "c"], ["a"], ["a", "b", "b"]])
def test_comparison_of_other_questions_is_refused(other: list[str]) -> None:
    with pytest.raises(DataError, match="different questions"):
        compare([row("a"), row("b")], [row(name) for name in other])


def test_calibration_by_hand() -> None:
    table = calibrate([0.0, 0.1, 0.3, 0.95, 1.0], [False, True, True, True, False], bins=10)
    assert [each.count for each in table.bins] == [2, 0, 1, 0, 0, 0, 0, 0, 0, 2]
    assert table.bins[0].accuracy == 0.5
    assert table.bins[0].mean_share == pytest.approx(0.05)
    assert table.bins[1].accuracy is None
    assert table.ece == pytest.approx((2 * 0.45 + 1 * 0.7 + 2 * 0.475) / 5)


@given(
    paths=st.integers(1, 64),
    votes=st.lists(st.tuples(st.integers(0, 64), st.booleans()), min_size=1, max_size=40),
    bins=st.integers(1, 20),
)
def test_every_share_falls_into_the_bin_that_holds_it(
    paths: int, votes: list[tuple[int, bool]], bins: int
) -> None:
    shares = [min(count, paths) / paths for count, _ in votes]
    right = [outcome for _, outcome in votes]
    table = calibrate(shares, right, bins=bins)
    assert sum(each.count for each in table.bins) == len(shares)
    assert sum(each.correct for each in table.bins) == sum(right)
    for number, each in enumerate(table.bins):
        inside = [s for s in shares if each.low < s <= each.high or (number == 0 and s == 0)]
        assert each.count == pytest.approx(len(inside), abs=sum(_edge(s, bins) for s in shares))
    assert 0.0 <= table.ece <= 1.0


def _edge(share: float, bins: int) -> bool:
    """Shares on an edge, up to rounding, may be told apart differently by the two sides."""
    return abs(share * bins - round(share * bins)) < 1e-6


def test_calibration_refuses_shares_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"shares\[1\]=1\.5"):
        calibrate([0.5, 1.5], [True, True])
