"""Adversarial responses cost time in proportion to their length, and never an error."""

from __future__ import annotations

import time

import pytest

from fastsi.vote import answer_key, equations, key_of_answer

UNITS = [
    *"{}([90a.-=+$&\n *`",
    *(
        "9,",
        "9.",
        "1 ",
        "aa ",
        "1+",
        "1=",
        "\\",
        "\\\\",
        "$$",
        "$1",
        "1:",
        "1/",
        "**",
        "a. ",
        "1. ",
    ),
    *("The answer is ", "answer: ", "Answer:\n", "answer", "answer to ", "answer, "),
    *("answer is not ", "correct option ", "the correct option is ", "\u7b54\u6848\u662f"),
    *(
        "\\boxed{",
        "\\boxed{}",
        "\\boxed ",
        "\\boxed{\\boxed{}",
        "\\fbox",
        "#### ",
        "####\n",
        "#### a\n",
    ),
    *("<answer>", "</answer>", "<answer></answer>", "</think>", "Question: ", "Q", "Q:"),
    *("\\[", "\\(", "\\frac", "\\frac{1}", "\\text{", "\\pm ", "\\begin{pmatrix}"),
    *("one ", "hundred ", "and ", "5 and ", "x=", "is 5 ", "Tom has ", "(A)", "yes "),
    *("\u00bd", "\u00b2", "\u0301", "1e9", "10^", "5 + 3 = ", "5 x ", "<<"),
]


def seconds(text: str) -> float:
    """Processor time, best of two, of everything that reads a response."""
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        answer_key(text, last_number=True)
        key_of_answer(text)
        key_of_answer(text + "!x")
        equations(text)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("unit", UNITS)
def test_work_grows_with_length_alone(unit: str) -> None:
    # Quadratic work would take 64 times as long on 8 times the text; small times are all noise.
    small = unit * (8_000 // len(unit))
    large = unit * (64_000 // len(unit))
    assert seconds(large) < max(0.3, 24 * seconds(small))


@pytest.mark.parametrize("unit", ["{", "9", "The answer is ", "\\boxed{", "(", "\\text{"])
def test_a_megabyte_is_no_trouble(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    answer_key(text, last_number=True)
    answer_key("The answer is " + text)
    answer_key("\\boxed{" + text + "}")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("unit", UNITS)
def test_spans_at_the_limit_of_analysis(unit: str) -> None:
    for length in (1000, 4000, 4096, 4097):
        start = time.process_time()
        key_of_answer((unit * length)[:length])
        key_of_answer("x = " + (unit * length)[:length] + " 5")
        assert time.process_time() - start < 0.5, length
