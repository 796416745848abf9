"""Responses of one length in the conventions that models answer in, for the voting benchmarks."""

from __future__ import annotations

import random

CONVENTIONS = {
    "phrase": "So the answer is {}.",
    "boxed": "Therefore, the result is $\\boxed{{{}}}$.",
    "hash": "#### {}",
    "tag": "<answer>{}</answer>",
    "bold": "**Answer:** {}",
    "next question": "The answer is {}.\n\nQuestion: A farmer has 7 cows and buys 12. How many?",
}
_STEPS = (
    "First, we add {a} and {b}, which makes {c}.",
    "Each of the {a} boxes holds {b} pens, so {a} * {b} = {d} pens.",
    "Then she spends ${a} of her ${c}, and $ {b} is left over; that is what we need.",
    "Wait, let me check this again: {a} + {b} = {c}, as it should be.",
    "Since {b} < {c}, the rest takes {a} more hours, or about {b}% of the day.",
)


def answer_of(index: int, *, answers: int) -> int:
    """The answer that response ``index`` gives: 1 to ``answers``, the first ones more often."""
    return random.Random(index).randint(1, random.Random(-1 - index).randint(1, answers))


def responses(count: int, *, characters: int, answers: int, seed: int) -> list[str]:
    """Reasoning cut to a common length, then an answer out of ``answers`` different numbers.

    Conventions take turns, so that every one is as frequent as the others.
    """
    rng = random.Random(seed)
    marks = list(CONVENTIONS.values())
    made = []
    for index in range(count):
        end = "\n" + marks[index % len(marks)].format(answer_of(index, answers=answers))
        body = ""
        while len(body) < characters - len(end):
            a, b = rng.randint(2, 99), rng.randint(2, 99)
            body += rng.choice(_STEPS).format(a=a, b=b, c=a + b, d=a * b) + rng.choice(" \n")
        made.append(body[: max(0, characters - len(end))] + end)
    return made
