"""Rules of the CUDA kernel, run on the host: they say what `answer_key` says, or leave it to it."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import pytest

from fastsi import _ext
from fastsi.vote import answer_key, answer_keys
from fastsi.vote.extract import reference_answer_key
from tests.support.responses import FILLER, SPANS, response

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/vote/_responses.py"))
BEFORE = (
    "The answer is ", "the answer is: ", "Answer: ", "**Answer:** ", "**Answer**: ", "#### ",
    "\n#### ", "\\boxed{", "$\\boxed{", "\\fbox {", "<answer>", "<ANSWER> ", "The answer is $",
    "Answer:\n", "ANSWER IS ", "Answer= ", "answers: ", "The answer is not ", "", "Wait. ",
    "The answer isn't ", "The answer is, so ", "The answer is option ", "Answer :", "answer*:_",
)  # fmt: skip
AFTER = (
    ".", ". ", "}.", "}$.", "}", "</answer>", "\n", ". It is (A).", "$.", "!", "?) ", "", ".\n\nQ:",
    " Question: no", "\n\nProblem 3: The answer is 5.", " for Question: 2", ".The", ".)", "</s>",
    "<|end|>", "##", " because $x$.", " </think>", "...", " is correct", "$ and $5.",
)  # fmt: skip
PLAIN = tuple(part for part in SPANS if part.isascii())
FIRST = ("", "<think>The answer is 3.</think> ", *(part for part in FILLER if len(part) > 12))


def plain_response(rng: random.Random) -> str:
    """A response in the forms that the kernel reads, and in forms close to them."""
    text = rng.choice(FIRST) * rng.randint(0, 3)
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        text += rng.choice(BEFORE) + rng.choice(PLAIN) + rng.choice(AFTER)
    if rng.random() < 0.3:
        at = rng.randint(0, len(text))
        text = (
            text[:at] + rng.choice(" .$*#\n\\{}<:\u00a0\u00e9Q1aB") + text[at + rng.randint(0, 2) :]
        )
    return text


def decided(texts: list[str]) -> float:
    """Share of the texts that the kernel's rules decide; each as the definition does."""
    count = 0
    for text in texts:
        key = _ext.core().device_answer_key(text)
        if key is not NotImplemented:
            count += 1
            assert key == reference_answer_key(text), text
    return count / len(texts)


@pytest.mark.parametrize("seed", range(2))
def test_random_responses_are_equal_or_left_over(seed: int) -> None:
    rng = random.Random(seed)
    assert decided([response(rng) for _ in range(10_000)]) > 0.01
    assert decided([plain_response(rng) for _ in range(10_000)]) > 0.15


def test_usual_responses_are_decided() -> None:
    texts = BENCHMARK["responses"](600, characters=700, answers=9, seed=1)
    assert decided(texts) == 1.0
    assert len(set(answer_keys(texts))) > 5
    rng = random.Random(2)
    steps = "Tom has 3 boxes of 4 pens, so he has 3 * 4 = 12 pens. "
    for span in ("18", "-7", "1,234.50", "3/4", "25%", "(B)", "yes", "No", "0.5"):
        for form in (*BENCHMARK["CONVENTIONS"].values(), "The answer is ${}$.", "**Answer**: {}\n"):
            text = steps * rng.randint(0, 3) + "\n" + form.format(span)
            found = _ext.core().device_answer_key(text)
            assert found == answer_key(text), text
            assert found is not None


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 5. I mean that (B) is the correct option, and the answer would be 6.",
        "The answer is 5\u00a0.",
        "The answer is 18 caf\u00e9s.",
        "Antwort: 5. " * 9,
        "\\boxed{5} and \\boxed 6",
        "\\boxed{5",
        "<answer>5",
        "x#### 5",
        "#### Step 1",
        "18",
        "So we add and add until nothing at all is left to be added by us.\n(B)",
        "So we add and add until nothing at all is left to be added by us.\nyes",
        "\u00a0Question: 5",
    ],
)
def test_doubtful_responses_are_left_over(text: str) -> None:
    assert _ext.core().device_answer_key(text) is NotImplemented


def test_unfinished_responses_abstain() -> None:
    text = "First, we add 2.5 and 7. Then we have 9.5 of them, and all of them are red. Then"
    assert _ext.core().device_answer_key(text) is None is answer_key(text)
    assert _ext.core().device_answer_key("") is None is answer_key("")
