"""Which paths are kept, and the guard against a model that answers the same to everything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.errors import TemplateCollapse
from fastsi.train import SelectConfig
from fastsi.train.select import (
    Concentration,
    check_collapse,
    concentrations,
    decided,
    kept_rows,
    vote_rows,
)
from fastsi.types import Question

FREE = SelectConfig(min_lead=0, max_paths=None, distinct_equations=False, finished_only=False)


def path(
    question: str, index: int, answer: str | None, text: str = "", **more: Any
) -> dict[str, Any]:
    return {
        "question_id": question,
        "path": index,
        "text": text or f" It is {index}. The answer is {answer}.",
        "answer": answer,
        "num_tokens": 3,
        "cumulative_logprob": -1.0,
        "finish_reason": "stop",
        **more,
    }


answers = st.sampled_from([None, "num:1", "num:2", "num:3"])
groups = st.lists(st.lists(answers, min_size=1, max_size=12), min_size=1, max_size=6)


@given(groups, st.floats(0, 1), st.integers(0, 5), st.integers(1, 4) | st.none())
@settings(max_examples=150, deadline=None)
def test_kept_paths_are_the_winners_where_the_vote_was_clear(
    found: list[list[str | None]], min_share: float, min_lead: int, cap: int | None
) -> None:
    paths = [path(f"q{q}", i, a) for q, group in enumerate(found) for i, a in enumerate(group)]
    votes = vote_rows(paths)
    config = SelectConfig(min_share=min_share, min_lead=min_lead, max_paths=cap)
    kept = kept_rows(paths, votes, config)
    assert [p for p in paths if p in kept] == kept
    for vote, group in zip(votes, found, strict=True):
        counts = sorted((group.count(a) for a in {*group} - {None}), reverse=True)
        lead = counts[0] - (counts[1] if len(counts) > 1 else 0) if counts else 0
        clear = bool(counts) and lead >= min_lead and counts[0] / len(group) >= min_share
        own = [p for p in kept if p["question_id"] == vote["question_id"]]
        assert len(own) == (min(counts[0], cap or counts[0]) if clear else 0)
        assert all(p["answer"] == vote["winner"] for p in own)
        assert (vote["question_id"] in decided(votes, config)) == clear


def test_a_path_is_kept_once_per_list_of_equations() -> None:
    texts = [
        " First 2 + 3 = 5, then 5 * 2 = 10. The answer is 10.",
        " We add: 2 + 3 = 5. Doubled, 5 * 2 = 10. The answer is 10.",
        " 5 * 2 = 10. The answer is 10.",
        " The answer is 10.",
        "  The answer  is 10.",
        " Surely the answer is 10.",
    ]
    paths = [path("q", i, "num:10", text) for i, text in enumerate(texts)]
    config = SelectConfig(max_paths=None)
    votes = vote_rows(paths)
    assert [p["path"] for p in kept_rows(paths, votes, config)] == [0, 2, 3, 5]
    every = SelectConfig(max_paths=None, distinct_equations=False)
    assert len(kept_rows(paths, votes, every)) == 6


def test_paths_cut_off_are_dropped_but_vote() -> None:
    paths = [
        path("q", 0, "num:1", finish_reason="length"),
        path("q", 1, "num:1"),
        path("q", 2, "num:2", finish_reason="length"),
    ]
    votes = vote_rows(paths)
    assert votes[0]["counts"] == [{"answer": "num:1", "votes": 2}, {"answer": "num:2", "votes": 1}]
    config = SelectConfig(min_lead=1)
    assert [p["path"] for p in kept_rows(paths, votes, config)] == [1]
    kept = kept_rows(paths, votes, SelectConfig(min_lead=1, finished_only=False))
    assert [p["path"] for p in kept] == [0, 1]


def asked(count: int) -> list[Question]:
    return [Question(id=f"q{i}", question=f"question {i}") for i in range(count)]


def won(winners: list[str | None]) -> list[dict[str, Any]]:
    return [
        row
        for i, winner in enumerate(winners)
        for row in vote_rows([path(f"q{i}", 0, winner), path(f"q{i}", 1, winner)])
    ]


def numbers(count: int, start: int = 0) -> list[str | None]:
    return [f"num:{start + i}" for i in range(count)]


COLLAPSED = {
    "every number the same": ["num:1"] * 40,
    "half of the numbers the same": ["num:7"] * 60 + numbers(60, 100),
    "numbers collapse, letters do not": ["num:1"] * 40 + ["choice:a", "choice:b"] * 40,
    "one letter for everything": ["choice:b"] * 100,
    "yes to everything": ["bool:yes"] * 60 + numbers(60),
    "the same words": ["text:it depends"] * 30 + numbers(20),
}
HEALTHY = {
    "all different": numbers(100),
    "small numbers repeat": [f"num:{i % 7}" for i in range(200)],
    "two letters": ["choice:a", "choice:b"] * 50,
    "mostly one letter": ["choice:b"] * 70 + ["choice:a"] * 30,
    "yes and no": ["bool:yes", "bool:no", "bool:yes"] * 30,
    "too few to tell": ["num:1"] * 2 + numbers(1, 5),
    "one question": ["num:4"],
    "all abstain": [None] * 50,
}


@pytest.mark.parametrize("name", COLLAPSED)
def test_collapse_stops_the_round_and_says_what_to_do(name: str) -> None:
    winners = COLLAPSED[name]
    with pytest.raises(TemplateCollapse, match=r"round 2: the answer '.*select\.collapse_share"):
        check_collapse(won(winners), asked(len(winners)), SelectConfig(), 2)


@pytest.mark.parametrize("name", HEALTHY)
def test_answers_that_repeat_by_nature_pass(name: str) -> None:
    winners = HEALTHY[name]
    check_collapse(won(winners), asked(len(winners)), SelectConfig(), 1)


def test_the_limits_can_be_raised() -> None:
    votes = won(["num:1"] * 40)
    check_collapse(votes, asked(40), SelectConfig(collapse_share=1.0), 1)


def test_one_question_asked_often_counts_once() -> None:
    same = [Question(id=f"q{i}", question="What is 1 + 1?") for i in range(50)]
    check_collapse(won(["num:2"] * 50), same, SelectConfig(), 1)
    assert concentrations(won(["num:2"] * 50), same) == [
        Concentration(closed=False, answer="num:2", wins=1, questions=1)
    ]


def test_concentrations_count_open_and_closed_answers_apart() -> None:
    winners: list[str | None] = ["num:2", "num:2", "num:3", "choice:a", "choice:b", None]
    assert concentrations(won(winners), asked(6)) == [
        Concentration(closed=False, answer="num:2", wins=2, questions=3),
        Concentration(closed=True, answer="choice:a", wins=1, questions=2),
    ]


@pytest.mark.parametrize(
    ("wins", "questions", "low"), [(5, 10, 0.2366), (10, 10, 0.7225), (1, 1, 0.2065)]
)
def test_the_sure_share_is_wilsons_lower_bound(wins: int, questions: int, low: float) -> None:
    item = Concentration(closed=False, answer="num:1", wins=wins, questions=questions)
    assert item.sure_share == pytest.approx(low, abs=1e-4)


def test_votes_may_be_weighed() -> None:
    paths = [
        path("q", 0, "num:1", cumulative_logprob=-0.3),
        path("q", 1, "num:2", cumulative_logprob=-9.0),
        path("q", 2, "num:2", cumulative_logprob=-9.0),
    ]
    plain, weighed = vote_rows(paths)[0], vote_rows(paths, "logprob_mean")[0]
    assert (plain["winner"], plain["weights"]) == ("num:2", None)
    assert (weighed["winner"], weighed["margin"]) == ("num:1", -1)
    assert weighed["counts"][0] == {"answer": "num:1", "votes": 1}
    assert sum(weighed["weights"]) == pytest.approx(3.0)
    # A lead is counted in votes; without a rule on it the heaviest answer is kept.
    assert decided([weighed], SelectConfig(min_lead=1)) == {}
    assert decided([weighed], SelectConfig(min_lead=0)) == {"q": "num:1"}
