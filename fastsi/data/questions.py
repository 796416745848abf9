"""Questions as JSON lines: one ``{"id", "question"}`` object per line, read strictly.

A malformed line stops the read with its file, line, field and value. Gold answers belong in a file
of their own that only ``fastsi.evaluate`` opens, so a field that looks like one is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastsi.data.manifest import atomic_write
from fastsi.errors import DataError
from fastsi.types import Question

_FIELDS = ("id", "question")
_GOLD_NAMES = frozenset({"answer", "answers", "gold", "label", "solution", "target"})


def read_questions(path: str | Path) -> list[Question]:
    """Read a questions file.

    Args:
        path: UTF-8 JSON-lines file; blank lines are skipped.

    Returns:
        The questions in file order, with unique ids.

    Raises:
        DataError: the file is missing or empty, or a line is malformed, repeats an id, has an
            empty, missing or unknown field, or carries an answer.
    """
    questions: list[Question] = []
    first_line: dict[str, int] = {}
    for line, record in read_records(path):
        _refuse_gold(record, path, line)
        check_fields(record, _FIELDS, path=path, line=line)
        name, text = record["id"], record["question"]
        if name in first_line:
            raise DataError(
                f"duplicate id, first seen on line {first_line[name]}; ids must be unique",
                path=path,
                line=line,
                field="id",
                value=name,
            )
        first_line[name] = line
        questions.append(Question(id=name, question=text))
    if not questions:
        raise DataError("no questions in the file; put one JSON object on each line", path=path)
    return questions


def write_questions(path: str | Path, questions: Sequence[Question]) -> None:
    """Write questions as JSON lines, atomically.

    Raises:
        ArtifactError: the file cannot be written.
    """
    lines = [
        json.dumps({"id": q.id, "question": q.question}, ensure_ascii=False) + "\n"
        for q in questions
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based line number, JSON object) for every non-blank line of a file, as it is read.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or a line is not a JSON object or
            repeats a field.
    """
    try:
        # Bytes: only "\n" ends a line. In text U+2028 would too, which JSON allows in strings.
        with Path(path).open("rb") as file:
            for line, raw in enumerate(file, start=1):
                if raw.strip():
                    yield line, _parse(raw.rstrip(b"\n"), path, line)
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", path=path) from error


def _parse(raw: bytes, path: str | Path, line: int) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for key, value in pairs:
            if key in record:
                raise DataError("the field occurs twice", path=path, line=line, field=key)
            record[key] = value
        return record

    try:
        text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 at byte {error.start} of the line", path=path, line=line, value=raw
        ) from error
    try:
        record = json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise DataError(f"malformed JSON: {what}", path=path, line=line, value=text) from error
    if not isinstance(record, dict):
        raise DataError("must be a JSON object", path=path, line=line, value=record)
    return record


def check_fields(
    record: dict[str, Any],
    fields: Iterable[str],
    *,
    path: str | Path,
    line: int,
) -> None:
    """Check that a record has exactly these fields, each a string with some visible text.

    Raises:
        DataError: a field is unknown, missing, not a string, or blank.
    """
    fields = tuple(fields)
    for name in record:
        if name not in fields:
            raise DataError(
                f"unknown field; the fields are {', '.join(fields)}",
                path=path,
                line=line,
                field=name,
                value=record[name],
            )
    for name in fields:
        if name not in record:
            raise DataError("missing field", path=path, line=line, field=name)
        value = record[name]
        if not isinstance(value, str):
            raise DataError("must be a string", path=path, line=line, field=name, value=value)
        if not value.strip():
            raise DataError("must not be empty", path=path, line=line, field=name, value=value)


def _refuse_gold(record: dict[str, Any], path: str | Path, line: int) -> None:
    for name in record:
        if name.lower() in _GOLD_NAMES:
            raise DataError(
                "a questions file holds no answers; put gold in a file of its own, which only "
                "evaluation reads",
                path=path,
                line=line,
                field=name,
                value=record[name],
            )
