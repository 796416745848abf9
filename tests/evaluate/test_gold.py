"""Gold files: every malformed line is refused with its file, line, field and value."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastsi.errors import DataError
from fastsi.evaluate import match_gold, read_gold
from fastsi.types import Question

GOOD = '{"id": "a", "answer": "1,234"}\n'


def test_reads_answers_and_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(GOOD + '\n{"id": "b", "answer": "(B)"}\n{"id": "c", "answer": "Yes"}\n')
    gold = read_gold(path)
    assert list(gold) == ["a", "b", "c"]
    assert [row.answer for row in gold.values()] == ["1,234", "(B)", "Yes"]
    assert [row.key for row in gold.values()] == ["num:1234", "choice:b", "bool:yes"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "b", "answer": ', ["malformed JSON"]),
        ('["b", "3"]', ["JSON object"]),
        ('{"answer": "3"}', ["field 'id'", "missing"]),
        ('{"id": "b"}', ["field 'answer'", "missing"]),
        ('{"id": "b", "answer": 3.5}', ["field 'answer'", "string", "3.5"]),
        ('{"id": "b", "answer": " "}', ["field 'answer'", "empty"]),
        ('{"id": "b", "anwser": "3"}', ["'anwser'", "unknown", "'3'"]),
        ('{"id": "a", "answer": "3"}', ["field 'id'", "duplicate", "line 1", "'a'"]),
        ('{"id": "b", "answer": "?"}', ["field 'answer'", "'?'"]),
    ],
)
def test_bad_lines_are_refused_by_place_and_value(
    tmp_path: Path, line: str, words: list[str]
) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(GOOD + line + "\n")
    with pytest.raises(DataError) as caught:
        read_gold(path)
    for word in [f"{path}:2:", *words]:
        assert word in str(caught.value)


def test_empty_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        read_gold(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no gold answers"):
        read_gold(tmp_path / "empty.jsonl")


def test_questions_without_gold_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(GOOD)
    gold = read_gold(path)
    questions = [Question(id=f"q{i}", question="?") for i in range(7)]
    with pytest.raises(DataError, match=r"7 of 8 questions: 'q0', 'q1', .*, \.\.\.") as caught:
        match_gold([Question(id="a", question="?"), *questions], gold, path)
    assert str(path) in str(caught.value)
    assert list(match_gold([Question(id="a", question="?")], gold, path)) == ["a"]
