"""Adversarial responses cost time in proportion to their length, and never an error."""

from __future__ import annotations

import time
from collections.abc import Callable

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


def processor_seconds(read: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    read(text)
    return time.process_time() - start


# The limits are no measure of speed. Linear work takes a small part of each of them on any machine,
# however busy; work that looks at the rest of the text, or at all before, at every unit takes
# minutes at these lengths.


@pytest.mark.parametrize("unit", UNITS)
def test_keys_of_four_million_characters(unit: str) -> None:
    """About 0.1 s; a search from every unit to the end takes 20 s to 10 minutes."""
    text = unit * (4_000_000 // len(unit))

    def read(text: str) -> None:
        answer_key(text, last_number=True)
        answer_key("The answer is " + text)
        answer_key("\\boxed{" + text + "}")
        key_of_answer(text)
        key_of_answer(text + "!x")

    assert processor_seconds(read, text) < 15


@pytest.mark.parametrize("unit", UNITS)
def test_equations_of_a_long_text(unit: str) -> None:
    """0.05 s, and 1.5 s where every few characters are an equation."""
    text = unit * (256_000 // len(unit))
    assert processor_seconds(equations, text) < 30


@pytest.mark.parametrize("unit", UNITS)
def test_spans_at_the_limit_of_analysis(unit: str) -> None:
    """Milliseconds; cubic work takes minutes, and backtracking without end does not end."""
    for length in (1000, 4000, 4096, 4097):

        def read(span: str) -> None:
            key_of_answer(span)
            key_of_answer(f"x = {span} 5")

        assert processor_seconds(read, (unit * length)[:length]) < 15, length
