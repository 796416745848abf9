"""The generated stories: exact answers, right arithmetic, and splits that never overlap."""

from __future__ import annotations

import ast
import json
import operator
import random
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.data import stories as stories_module
from fastsi.data.stories import (
    Care,
    Split,
    Story,
    make_problems,
    split_of,
    write_gold,
    write_questions,
)
from fastsi.data.stories_families import FAMILIES, Draft, Step
from fastsi.errors import ConfigError

SPLITS = get_args(Split)
OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
splits = st.sampled_from(SPLITS)
seeds = st.integers(0, 2**31)


def evaluate(expression: str) -> Fraction:
    """Exact value of an expression over integers, by Python's own parser."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATIONS[type(node.op)](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant)
        assert type(node.value) is int
        return Fraction(node.value)

    return walk(ast.parse(expression, mode="eval").body)


def equations(text: str) -> list[tuple[str, int]]:
    found = re.findall(r"([\d+\-*/()]+)=(\d+)", text)
    assert len(found) == text.count("=")
    return [(expression, int(value)) for expression, value in found]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def solve(story: Story) -> int | str:
    """The answer from the question's text alone, written independently of the generator."""
    text, n = story.question, numbers(story.question)
    match story.family:
        case "shopping":
            return n[0] * n[1] + n[2] * n[3] if "pay?" in text else n[0] - n[1] * n[2] + n[3]
        case "giving":
            return n[0] + n[1] - n[2] - n[3]
        case "work":
            return n[0] * n[1] * n[2] - n[3]
        case "sharing":
            assert (n[0] + n[1]) % n[2] == 0
            return (n[0] + n[1]) // n[2] + n[3]
        case "ages":
            oldest = (n[0] + n[1]) * n[2]
            return oldest + n[3] if "will" in text else oldest + n[0]
        case "choice":
            return f"({'abcd'[n[3:].index(n[0] * n[1] + n[2])]})"
        case "enough":
            return "yes" if n[0] >= n[1] * n[2] + n[3] else "no"
    raise AssertionError(f"no solver for family {story.family}")


@pytest.mark.parametrize("split", SPLITS)
def test_gold_answers_follow_from_the_question_text(split: Split) -> None:
    stories = make_problems(split, 3000, seed=11)
    assert {story.family for story in stories} == set(FAMILIES)
    for story in stories:
        assert story.answer == str(solve(story)), story


@settings(deadline=None, max_examples=40)
@given(split=splits, seed=seeds)
def test_every_equation_is_right_and_uses_known_numbers(split: Split, seed: int) -> None:
    for story in make_problems(split, 40, seed):
        known = set(numbers(story.question))
        for expression, value in equations(story.careful):
            assert evaluate(expression) == value, story
            assert set(numbers(expression)) <= known, story
            known.add(value)
        ((expression, value),) = equations(story.skipping)
        assert evaluate(expression) == value, story
        assert set(numbers(expression)) <= set(numbers(story.question)), story
        assert value == equations(story.careful)[-1][1], story
        assert not equations(story.at_once)


@settings(deadline=None, max_examples=20)
@given(split=splits, seed=seeds)
def test_every_solution_ends_with_the_answer(split: Split, seed: int) -> None:
    for story in make_problems(split, 40, seed):
        for care in get_args(Care):
            solution = story.solution(care)
            assert solution.endswith(f"The answer is {story.answer}."), story
            assert solution.count("The answer is") == 1, story
            assert solution == solution.strip()
            assert "\n" not in solution + story.question
        assert len(story.at_once) < len(story.skipping) < len(story.careful)


@pytest.mark.parametrize("family", ["shopping", "giving", "work", "ages"])
def test_operands_come_in_either_order(family: str) -> None:
    """So that careful paths to the same answer do not all have the same text."""
    ascending = set()
    for story in make_problems("pretrain", 500, seed=0):
        if story.family == family:
            first = next(e for e, _ in equations(story.careful) if set(e) & set("+*"))
            ascending.add(numbers(first) == sorted(numbers(first)))
    assert ascending == {True, False}


def test_losses_are_taken_one_by_one_or_together() -> None:
    signs = Counter(
        "".join(re.sub(r"\d", "", expression) for expression, _ in equations(story.careful))
        for story in make_problems("pretrain", 2000, seed=0)
        if story.family == "giving"
    )
    assert set(signs) == {"+--", "++-"}
    assert min(signs.values()) > 0.4 * signs.total()


@settings(deadline=None, max_examples=15)
@given(split=splits, seed=seeds, count=st.integers(0, 60))
def test_equal_seeds_give_equal_problems_and_a_longer_draw_extends_a_shorter(
    split: Split, seed: int, count: int
) -> None:
    longer = make_problems(split, 60, seed)
    assert make_problems(split, count, seed) == longer[:count]
    assert len({story.question for story in longer}) == 60
    assert len({story.id for story in longer}) == 60


def test_seeds_and_splits_give_different_problems() -> None:
    drawn = [
        [story.question for story in make_problems(split, 50, seed)]
        for split in SPLITS
        for seed in (0, 1, 2)
    ]
    assert len({tuple(questions) for questions in drawn}) == len(drawn)
    assert len({s.id for split in SPLITS for s in make_problems(split, 50, 0)}) == 150


def test_no_question_occurs_in_two_splits() -> None:
    """Held by construction; shown on far more questions than the demo and pretraining share."""
    drawn = {
        split: {
            story.question
            for seed in (0, 1, 2)
            for story in make_problems(split, 40_000 if split == "pretrain" else 5000, seed)
        }
        for split in SPLITS
    }
    assert not drawn["evaluate"] & (drawn["pretrain"] | drawn["improve"])
    assert not drawn["improve"] & drawn["pretrain"]
    for split, questions in drawn.items():
        assert all(split_of(question) == split for question in questions)


def test_splits_have_the_same_mixture_of_families() -> None:
    weights = {name: weight for name, (_, weight) in FAMILIES.items()}
    for split in SPLITS:
        counts = Counter(story.family for story in make_problems(split, 4000, seed=3))
        for name, weight in weights.items():
            share = weight / sum(weights.values())
            # Five standard deviations of a binomial share.
            assert abs(counts[name] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_letters_and_yes_and_no_are_balanced() -> None:
    """A constant guess must not pay."""
    stories = make_problems("evaluate", 6000, seed=5)
    letters = Counter(story.answer for story in stories if story.family == "choice")
    verdicts = Counter(story.answer for story in stories if story.family == "enough")
    assert set(letters) == {"(a)", "(b)", "(c)", "(d)"}
    assert set(verdicts) == {"yes", "no"}
    for counts in (letters, verdicts):
        for count in counts.values():
            assert abs(count / counts.total() - 1 / len(counts)) < 0.08


def read_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_keep_questions_and_answers_apart(tmp_path: Path) -> None:
    stories = make_problems("improve", 20, seed=7)
    write_questions(tmp_path / "questions.jsonl", stories)
    write_gold(tmp_path / "gold.jsonl", stories)
    questions = read_lines(tmp_path / "questions.jsonl")
    gold = read_lines(tmp_path / "gold.jsonl")
    assert questions == [{"id": s.id, "question": s.question} for s in stories]
    assert gold == [{"id": s.id, "answer": s.answer} for s in stories]


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="split='test'"):
        make_problems("test", 1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="count=-1"):
        make_problems("improve", -1, seed=0)


def test_a_used_up_space_of_questions_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def coin(rng: random.Random) -> Draft:
        side = rng.randint(0, 99)
        step = Step("It is", f"{side}+0", side, "big")
        return Draft(f"Is {side} more than 50?", (step,), f"{side}+0", "no")

    monkeypatch.setattr(stories_module, "FAMILIES", {"coin": (coin, 1)})
    available = sum(split_of(f"Is {side} more than 50?") == "improve" for side in range(100))
    assert len(make_problems("improve", available, seed=0)) == available
    with pytest.raises(ConfigError, match="no more new problems"):
        make_problems("improve", available + 1, seed=0)
