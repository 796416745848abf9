"""A folder of evaluations: what was written, what it scored, and on what that rests.

The folder belongs to one set of questions, gold answers, prompts and sampling settings; its
manifest refuses another. ``NAME.parquet`` holds the responses of one model and ``NAME.json`` the
scores, so a killed evaluation is not repeated and a report needs no model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastsi.data.manifest import Manifest, atomic_write
from fastsi.errors import ArtifactError
from fastsi.evaluate.run import Responses
from fastsi.evaluate.score import Evaluation, ScoredQuestion, summarise
from fastsi.types import Question

RESPONSES = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("greedy", pa.string(), nullable=False),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        pa.field("logprobs", pa.list_(pa.float64()), nullable=False),
    ]
)
"""One row per question: the greedy path and the sampled paths with their summed log-probs, nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvaluation:
    """One model's evaluation."""

    rows: tuple[ScoredQuestion, ...]
    questions: tuple[Question, ...]
    responses: tuple[Responses, ...]
    seconds: float
    """Wall time of sampling."""

    def summary(self, pass_at: Sequence[int] = ()) -> Evaluation:
        """The aggregate scores."""
        return summarise(self.rows, pass_at=pass_at)


def save(
    folder: Manifest,
    name: str,
    stored: StoredEvaluation,
    model: str,
) -> None:
    """Write one evaluation and list it in the folder's manifest.

    Args:
        folder: the open manifest of the evaluation folder.
        name: such as ``before`` or ``after``.
        stored: what to write.
        model: identity of the weights, kept so that a changed model is evaluated again.

    Raises:
        ArtifactError: the files cannot be written.
    """
    rows = [
        {
            "question_id": question.id,
            "question": question.question,
            "greedy": response.greedy,
            "texts": list(response.texts),
            "logprobs": list(response.logprobs),
        }
        for question, response in zip(stored.questions, stored.responses, strict=True)
    ]
    with atomic_write(folder.path(f"{name}.parquet")) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), temporary, compression="zstd")
    folder.record(f"{name}.parquet", seconds=stored.seconds, notes={"model": model})
    scores = {
        "seconds": stored.seconds,
        "evaluation": stored.summary().to_json(),
        "questions": [dataclasses.asdict(row) for row in stored.rows],
    }
    with atomic_write(folder.path(f"{name}.json")) as temporary:
        temporary.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    folder.record(f"{name}.json", inputs=[f"{name}.parquet"])


def is_stored(folder: Manifest, name: str, model: str) -> bool:
    """Whether this model's evaluation is there, whole, under this name.

    Raises:
        ArtifactError: it is listed, but its content is not what was written.
    """
    responses = f"{name}.parquet"
    return (
        folder.finished(responses)
        and folder.artifact(responses).notes.get("model") == model
        and folder.finished(f"{name}.json")
    )


def load(folder: str | Path, name: str) -> StoredEvaluation:
    """Read one evaluation back.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    folder = Path(folder)
    for part in (folder / f"{name}.json", folder / f"{name}.parquet"):
        if not part.is_file():
            raise ArtifactError(f"{part}: missing; evaluate again")
    try:
        scores: Mapping[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
        rows = tuple(ScoredQuestion(**row) for row in scores["questions"])
        seconds = float(scores["seconds"])
        table = pq.read_table(folder / f"{name}.parquet").cast(RESPONSES).to_pylist()
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{folder}: damaged evaluation {name!r}: {reason}") from None
    return StoredEvaluation(
        rows=rows,
        questions=tuple(Question(id=row["question_id"], question=row["question"]) for row in table),
        responses=tuple(
            Responses(
                greedy=row["greedy"], texts=tuple(row["texts"]), logprobs=tuple(row["logprobs"])
            )
            for row in table
        ),
        seconds=seconds,
    )
