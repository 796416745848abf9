"""Reading questions: what is accepted, and that every fault is named with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.data.questions import read_questions, write_questions
from fastsi.errors import ArtifactError, DataError
from fastsi.types import Question

GOOD = '{"id": "a", "question": "How many?"}'

# What `str.isprintable` accepts: blanks other than the space and control characters are not.
printable = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
visible = st.text(printable, min_size=1, max_size=30).filter(str.strip)
strange = st.sampled_from(["line\u2028separator", "tab\there", 'quote"', "\u00e9\u4e2d", "a\r\nb"])


@given(st.lists(st.tuples(visible, visible | strange), min_size=1, unique_by=lambda pair: pair[0]))
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("q") / "questions.jsonl"
    questions = [Question(id=name, question=text) for name, text in pairs]
    write_questions(path, questions)
    assert read_questions(path) == questions


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n  \n")
    assert read_questions(path) == [Question(id="a", question="How many?")]


@pytest.mark.parametrize(
    ("second", "field", "words"),
    [
        ('{"id": "b", "question": ', None, "malformed JSON"),
        ('{"id": "b", "question": "x"} trailing', None, "malformed JSON"),
        ('["b", "x"]', None, "must be a JSON object"),
        ('{"id": "a", "question": "x"}', "id", "duplicate id, first seen on line 1"),
        ('{"id": "b", "question": ""}', "question", "must not be empty"),
        ('{"id": "b", "question": " \\t "}', "question", "must not be empty"),
        ('{"id": " ", "question": "x"}', "id", "must not be empty"),
        ('{"question": "x"}', "id", "missing field"),
        ('{"id": "b"}', "question", "missing field"),
        ('{"id": "b", "question": "x", "topic": "y"}', "topic", "unknown field"),
        ('{"id": "b", "question": "x", "answer": "9"}', "answer", "a file of its own"),
        ('{"id": "b", "question": "x", "Gold": "9"}', "Gold", "a file of its own"),
        ('{"id": 7, "question": "x"}', "id", "must be a string"),
        ('{"id": "b", "question": null}', "question", "must be a string"),
        ('{"id": "b", "id": "c", "question": "x"}', "id", "occurs twice"),
        ("[" * 100_000, None, "malformed JSON"),
    ],
)
def test_a_fault_is_named_with_file_line_and_field(
    tmp_path: Path, second: str, field: str | None, words: str
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{GOOD}\n\n{second}\n")
    with pytest.raises(DataError, match=words) as caught:
        read_questions(path)
    assert caught.value.line == 3
    assert caught.value.field == field
    message = str(caught.value)
    assert message.startswith(f"{path}:3: ")
    assert "\n" not in message
    assert len(message) < 400


def test_the_offending_value_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "b", "question": 12345}')
    with pytest.raises(DataError, match="got 12345"):
        read_questions(path)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"id": "b", "question": "\xff"}\n')
    with pytest.raises(DataError, match=r":2: not UTF-8 at byte 25"):
        read_questions(path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="no questions"):
        read_questions(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_questions(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="cannot read"):
        read_questions(tmp_path)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_files_raise_nothing_but_data_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = "\n".join(json.dumps({"id": str(i), "question": f"q {i}"}) for i in range(3)).encode()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    damaged = good[:start] + data.draw(st.binary(max_size=6)) + good[end:]
    path = tmp_path_factory.mktemp("q") / "q.jsonl"
    path.write_bytes(damaged)
    try:
        questions = read_questions(path)
    except DataError:
        return
    assert all(q.id.strip() and q.question.strip() for q in questions)


def test_writing_where_nothing_can_be_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_questions(tmp_path / "file" / "q.jsonl", [Question(id="a", question="b")])
