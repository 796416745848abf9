"""Keys in C++ against their definition in Python, on random and mutated answers."""

from __future__ import annotations

import random

import pytest

from fastsi import _ext
from fastsi.vote.key import reference_key_of_answer
from tests.support.answers import answer
from tests.vote.test_pairs import PAIRS


@pytest.mark.parametrize("seed", range(5))
def test_random_answers(seed: int) -> None:
    rng = random.Random(seed)
    decided = 0
    for _ in range(5000):
        text = answer(rng)
        key = _ext.core().key_of_answer(text)
        if key is not NotImplemented:
            decided += 1
            assert key == reference_key_of_answer(text), text
    assert decided > 4800  # what is left: beyond 128 bits, letters that need Unicode's tables


def test_every_pair_of_the_table() -> None:
    left = []
    for row in PAIRS:
        for text in row[2:]:
            key = _ext.core().key_of_answer(text)
            if key is NotImplemented:
                left.append(text)
            else:
                assert key == reference_key_of_answer(text), text
    assert len(left) < len(PAIRS) / 50, left


@pytest.mark.parametrize(
    "text",
    ["9" * 5000, " $-1" + ",000" * 400 + ". ", "x" * 5000, "7" * 999 + "x", "9" * 2000 + "/3"],
    ids=["digits", "groups", "letters", "almost", "fraction"],
)
def test_long_answers(text: str) -> None:
    key = _ext.core().key_of_answer(text)
    assert key is NotImplemented or key == reference_key_of_answer(text)
