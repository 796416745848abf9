"""Gold answers: the only module of the package that opens them.

A gold file is JSON lines ``{"id", "answer"}``, apart from the questions. Nothing that trains can
import this module (``tests/test_layers.py``), so no gold answer can reach a round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastsi import vote
from fastsi.data.questions import check_fields, read_records
from fastsi.errors import DataError
from fastsi.types import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldAnswer:
    """The right answer of one question."""

    answer: str
    """As written in the file."""
    key: str
    """Canonical key; an answer is right when its key is this string."""


def read_gold(path: str | Path) -> dict[str, GoldAnswer]:
    """Read a gold file: answers by question id, in file order.

    Raises:
        DataError: the file cannot be read or is empty, a line is not an object with exactly the
            strings ``id`` and ``answer``, an id occurs twice, or an answer cannot be read as one.
    """
    gold: dict[str, GoldAnswer] = {}
    first_line: dict[str, int] = {}
    for line, record in read_records(path):
        check_fields(record, ("id", "answer"), path=path, line=line)
        name, answer = record["id"], record["answer"]
        if name in gold:
            raise DataError(
                f"duplicate id, first seen on line {first_line[name]}; ids must be unique",
                path=path,
                line=line,
                field="id",
                value=name,
            )
        key = vote.key_of_answer(answer)
        if key is None:
            raise DataError(
                "cannot be read as an answer; write the bare answer, such as 18, (b) or yes",
                path=path,
                line=line,
                field="answer",
                value=answer,
            )
        gold[name] = GoldAnswer(answer=answer, key=key)
        first_line[name] = line
    if not gold:
        raise DataError("no gold answers in the file; put one JSON object on each line", path=path)
    return gold


def match_gold(
    questions: Iterable[Question], gold: Mapping[str, GoldAnswer], path: str | Path
) -> dict[str, GoldAnswer]:
    """The gold answers of exactly these questions; the file may hold more.

    Raises:
        DataError: a question has no gold answer; the message names the first ones.
    """
    questions = list(questions)
    missing = [question.id for question in questions if question.id not in gold]
    if missing:
        names = ", ".join(repr(name) for name in missing[:5]) + (", ..." if missing[5:] else "")
        raise DataError(
            f"no gold answer for {len(missing)} of {len(questions)} questions: {names}; "
            "add them, or evaluate other questions",
            path=path,
            field="id",
        )
    return {question.id: gold[question.id] for question in questions}
