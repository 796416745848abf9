"""A table of answers that are one answer, and of answers that are two, for every form of a key.

Each row of ``pairs.tsv`` names the rule it exercises. ``\\uXXXX`` stands for that character.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from fastsi.vote import key_of_answer, render
from fastsi.vote.key import reference_key_of_answer

_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")


def read_pairs() -> list[tuple[str, str, str, str]]:
    """Rule, ``merge`` or ``apart``, and the two answers of every row."""
    lines = (Path(__file__).parent / "pairs.tsv").read_text(encoding="ascii").splitlines()[1:]
    rows = []
    for line in lines:
        rule, relation, one, other = line.split("\t")
        one, other = (_ESCAPE.sub(lambda m: chr(int(m[1], 16)), text) for text in (one, other))
        assert relation in ("merge", "apart"), line
        rows.append((rule, relation, one, other))
    return rows


PAIRS = read_pairs()


@pytest.mark.parametrize("key_of", [reference_key_of_answer, key_of_answer])
@pytest.mark.parametrize("rule", sorted({row[0] for row in PAIRS}))
def test_pairs(rule: str, key_of) -> None:
    wrong = []
    for _, relation, one, other in (row for row in PAIRS if row[0] == rule):
        keys = key_of(one), key_of(other)
        if None in keys or (keys[0] == keys[1]) != (relation == "merge"):
            wrong.append(f"{relation} {one!r} {other!r}: {keys[0]!r} {keys[1]!r}")
    assert not wrong, "\n".join(wrong)


def test_every_key_of_the_table_reads_back_as_itself() -> None:
    for text in {text for row in PAIRS for text in row[2:]}:
        key = reference_key_of_answer(text)
        assert key is not None, text
        assert reference_key_of_answer(render(key)) == key, text


def test_the_table_is_large_and_even() -> None:
    rules = Counter(row[0] for row in PAIRS)
    assert len(PAIRS) >= 300
    assert min(rules.values()) >= 5, rules
    assert len({row[1:] for row in PAIRS}) == len(PAIRS), "a row stands twice"
    assert sum(row[1] == "apart" for row in PAIRS) >= 150
