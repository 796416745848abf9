"""The Parquet files of a round: columns, types, and atomic writing.

The same rows give the same bytes, so content hashes of equal runs are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastsi.data.manifest import atomic_write
from fastsi.errors import ArtifactError

Row = Mapping[str, Any]

PATHS = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("path", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("cumulative_logprob", pa.float64(), nullable=False),
        pa.field("finish_reason", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("token_logprobs", pa.list_(pa.float32())),
        pa.field("stop_reason", pa.string()),
    ]
)
"""One row per sampled path; ``answer`` is its canonical key, null where it abstained.
``stop_reason`` is what ended it: a stop string, ``answer``, a stop token's id; null: end of
sequence or ``max_tokens`` (see ``finish_reason``)."""

VOTES = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("winner", pa.string()),
        pa.field("counts", pa.list_(pa.struct([("answer", pa.string()), ("votes", pa.int32())]))),
        pa.field("n", pa.int32(), nullable=False),
        pa.field("votes", pa.int32(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),
        pa.field("margin", pa.int32(), nullable=False),
        pa.field("entropy", pa.float64(), nullable=False),
        pa.field("tie", pa.bool_(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("weights", pa.list_(pa.float64())),
    ]
)
"""One row per question; ``counts`` most first, ``weights`` beside it (null: a path is a vote)."""

TRAIN = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("path", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
    ]
)
"""One row per training example."""


_LATER = frozenset({"token_logprobs", "weights"})
"""Columns that files of earlier versions lack; they are read as null."""


def write_table(path: Path, schema: pa.Schema, rows: Sequence[Row]) -> None:
    """Write rows as Parquet, atomically.

    Raises:
        ArtifactError: the file cannot be written.
    """
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    _write(path, table)


def join_tables(path: Path, schema: pa.Schema, parts: Iterable[Path]) -> None:
    """Concatenate part files, in order, into one file, atomically.

    Raises:
        ArtifactError: a part is unreadable, or the file cannot be written.
    """
    _write(path, pa.concat_tables([_read(part, schema) for part in parts]).combine_chunks())


def read_rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """All rows of a file with this schema.

    Raises:
        ArtifactError: the file is missing, damaged, or has other columns.
    """
    rows: list[dict[str, Any]] = _read(path, schema).to_pylist()
    return rows


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        first_line = str(error).splitlines()[0]
        raise ArtifactError(f"{path}: not a readable Parquet file: {first_line}") from error
    there = table.schema.names
    if there != [name for name in schema.names if name in there or name not in _LATER]:
        raise ArtifactError(
            f"{path}: columns are {', '.join(there)}; expected {', '.join(schema.names)}"
        )
    for place, field in enumerate(schema):
        if field.name not in there:
            table = table.add_column(place, field, pa.nulls(len(table), field.type))
    return table.cast(schema)


def _write(path: Path, table: pa.Table) -> None:
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
