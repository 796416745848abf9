"""Votes over paths that are already in a file, from any sampler: Parquet or JSON lines in and out.

The file is read in blocks, and of a path only its answer's key, its log-probability and its score
stay in memory, so a file may be larger than memory; the rows of a question need not be together.
Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastsi.data.manifest import atomic_write
from fastsi.data.questions import read_records
from fastsi.errors import ArtifactError, ConfigError, DataError
from fastsi.train.select import vote_row
from fastsi.train.tables import VOTES, write_table
from fastsi.types import Vote, check_known
from fastsi.vote import EXTRACTORS, WeightConfig, answer_keys, majority, merged_keys
from fastsi.vote.stopping import Rule, parse_rule, replay
from fastsi.vote.symbolic import shared_merger
from fastsi.vote.weights import total

Advance = Callable[[int], None]
"""Called with the number of rows done since the last call."""

_SUFFIXES = (".parquet", ".jsonl")
_BLOCK = 1024
"""Rows read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFields:
    """Columns of a file of paths. The defaults are those of ``paths.parquet``."""

    text: str = "text"
    """A path's text."""
    group: str = "question_id"
    """What names the question: a string or an integer."""
    logprob: str | None = None
    """A path's summed log-probability in nats, or a list with that of each token. None:
    ``cumulative_logprob``, and ``token_logprobs`` for weights that need tokens."""
    length: str = "num_tokens"
    """A path's number of tokens, for weights by mean where ``logprob`` is a sum."""


@dataclass(slots=True)
class _Group:
    keys: list[str | None] = field(default_factory=list)
    logprobs: array[float] = field(default_factory=lambda: array("d"))
    """Summed; NaN where the file has none."""
    scores: array[float] = field(default_factory=lambda: array("d"))

    def vote(self, config: WeightConfig, symbolic: bool, rule: Rule | None) -> Vote:
        keys = merged_keys(self.keys) if symbolic else self.keys
        stop = replay(rule, keys)
        logprobs = self.logprobs[: stop.at]
        known = not any(math.isnan(value) for value in logprobs)
        weights = config.weigh(self.scores[: stop.at])
        return majority(
            keys[: stop.at],
            logprobs if known else None,
            weights=weights,
            stop_reason=stop.reason,
        )


def vote_file(
    paths: str | Path,
    *,
    text_field: str = "text",
    group_field: str = "question_id",
    logprob_field: str | None = None,
    length_field: str = "num_tokens",
    weights: str = "uniform",
    extractor: str = "auto",
    symbolic: bool = False,
    stopping: str | None = None,
    out: str | Path | None = None,
    advance: Advance | None = None,
) -> dict[str, Vote]:
    """Vote over the paths in a file, one row per path.

    Args:
        paths: a ``.parquet`` file, or JSON lines in any other.
        text_field, group_field, logprob_field, length_field: columns; see `PathFields`.
            Log-probabilities settle ties where every path of a question has one.
        weights: how much a path's vote weighs; one of ``fastsi.vote.SCHEMES``.
        extractor: how the answer is found; one of ``fastsi.vote.EXTRACTORS``.
        symbolic: merge opaque answers that algebra proves equal (`fastsi.vote.symbolic`).
        stopping: replay a stopping rule on each question's paths, in order of the file: ``exact``,
            ``beta:0.95``, ``window:5`` (`fastsi.vote.stopping`). Later paths do not count.
        out: ``.parquet`` or ``.jsonl`` file for the votes, with the columns of ``votes.parquet``;
            it must not exist.
        advance: told of rows as they are done.

    Returns:
        Votes by question, in order of first appearance.

    Raises:
        ConfigError: an unknown extractor, weighting, stopping rule or suffix of ``out``, or
            ``symbolic`` without math-verify installed.
        DataError: the file is malformed or lacks a column.
        ArtifactError: ``out`` exists or cannot be written.
    """
    check_known([extractor], EXTRACTORS, "extractor")
    config = WeightConfig.parse(weights)
    rule = parse_rule(stopping, weights=config.name)
    if symbolic:
        shared_merger()  # refuses before any work
    out = None if out is None else _new_votes_file(out)
    fields = PathFields(
        text=text_field, group=group_field, logprob=logprob_field, length=length_field
    )
    groups: dict[str, _Group] = {}
    rows = (_Row(paths, line, row) for line, row in _rows(Path(paths), fields, config))
    for block in _blocks(rows):
        _add(groups, block, fields, config, extractor)
        if advance is not None:
            advance(len(block))
    if not groups:
        raise DataError("no paths in the file", path=paths)
    votes = {name: group.vote(config, symbolic, rule) for name, group in groups.items()}
    if out is not None:
        write_votes(out, votes)
    return votes


def count_rows(paths: str | Path) -> int | None:
    """Rows of a Parquet file, for a progress bar; None for other files, and for bad ones."""
    if Path(paths).suffix != ".parquet":
        return None
    try:
        return int(pq.read_metadata(paths).num_rows)
    except (OSError, pa.ArrowException):
        return None  # reading it says what is wrong


def write_votes(out: str | Path, votes: Mapping[str, Vote]) -> None:
    """Write votes with the columns of ``votes.parquet``, as Parquet or JSON lines by suffix.

    Raises:
        ArtifactError: the file cannot be written.
    """
    out = Path(out)
    rows = [vote_row(name, outcome) for name, outcome in votes.items()]
    if out.suffix == ".parquet":
        write_table(out, VOTES, rows)
        return
    with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def vote_record(outcome: Vote) -> dict[str, Any]:
    """A vote as JSON values."""
    record = dataclasses.asdict(outcome)
    weights = None if outcome.weights is None else dict(outcome.weights)
    more = {"counts": dict(outcome.counts), "keys": list(outcome.keys), "weights": weights}
    return record | more


def new_file(path: str | Path) -> Path:
    """Refuse, before any work, a file that exists or that could not be made.

    Raises:
        ArtifactError: it exists, or its folder cannot be written in.
    """
    path = Path(path)
    if path.exists():
        raise ArtifactError(f"{path}: exists; give another name, nothing is overwritten")
    nearest = next(each for each in path.absolute().parents if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ArtifactError(f"{path}: cannot write in {nearest}")
    return path


def _new_votes_file(path: str | Path) -> Path:
    if Path(path).suffix not in _SUFFIXES:
        raise ConfigError(f"out={str(path)!r}: must end in {' or '.join(_SUFFIXES)}")
    return new_file(path)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row and where it stands, for messages."""

    path: str | Path
    line: int
    values: Mapping[str, Any]

    def text(self, name: str, kinds: type | tuple[type, ...], what: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self.wrong(name, f"must be {what}" if name in self.values else "missing field")
        return value

    def logprob(self, name: str) -> float | list[float] | None:
        """A number, a list of numbers, or None where it is null or not there."""
        value = self.values.get(name)
        if value is None or _is_number(value):
            return value
        if isinstance(value, list) and all(_is_number(each) for each in value):
            return value
        raise self.wrong(name, "must be a log-probability or a list of them")

    def wrong(self, name: str, message: str) -> DataError:
        value = self.values.get(name)
        return DataError(message, path=self.path, line=self.line, field=name, value=value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _logprob_field(fields: PathFields, config: WeightConfig) -> str:
    if fields.logprob is not None:
        return fields.logprob
    return "token_logprobs" if config.name == "window" else "cumulative_logprob"


def _blocks(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    while block := list(itertools.islice(rows, _BLOCK)):
        yield block


def _add(
    groups: dict[str, _Group],
    block: Sequence[_Row],
    fields: PathFields,
    config: WeightConfig,
    extractor: str,
) -> None:
    """Count a block of rows; their answers are read in one call, which uses all processors."""
    # Row by row, so that the first bad one is the one that is named.
    read = [_read(row, fields, config) for row in block]
    keys = answer_keys([each.text for each in read], extractor=extractor)
    for each, key in zip(read, keys, strict=True):
        group = groups.setdefault(each.group, _Group())
        group.keys.append(None if key is None else sys.intern(key))
        group.logprobs.append(each.logprob)
        group.scores.append(each.score)


@dataclass(frozen=True, slots=True)
class _Path:
    group: str
    text: str
    logprob: float
    """Summed; NaN: the row has none."""
    score: float


def _read(row: _Row, fields: PathFields, config: WeightConfig) -> _Path:
    group = str(row.text(fields.group, (str, int), "a string or an integer"))
    text = row.text(fields.text, str, "a string")
    name = _logprob_field(fields, config)
    logprob = row.logprob(name)
    if logprob is None:
        if fields.logprob is not None or config.name != "uniform":
            raise row.wrong(name, "missing log-probability")
        return _Path(group, text, math.nan, 0.0)
    length = row.values.get(fields.length)
    if not isinstance(length, int) or isinstance(length, bool):
        length = None
    try:
        return _Path(group, text, total(logprob), config.score(logprob, length))
    except ConfigError as error:
        raise row.wrong(name, f"{error}") from None


def _rows(
    path: Path, fields: PathFields, config: WeightConfig
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line or row, values of the row)."""
    if path.suffix != ".parquet":
        yield from read_records(path)
        return
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            for name in (fields.text, fields.group):
                if name not in there:
                    raise DataError(
                        f"no such column; the file has {', '.join(there)}", path=path, field=name
                    )
            wanted = {fields.text, fields.group, fields.length, _logprob_field(fields, config)}
            columns = [name for name in there if name in wanted]
            batches = file.iter_batches(batch_size=_BLOCK, columns=columns)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror or error}", path=path) from None
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"not a readable Parquet file: {reason}", path=path) from None
