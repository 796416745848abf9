"""Votes over files from any source: formats, columns, weights, bad rows, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastsi
from fastsi.errors import ArtifactError, ConfigError, DataError
from fastsi.train.select import vote_rows
from fastsi.train.tables import PATHS, VOTES, read_rows, write_table
from fastsi.vote_files import vote_file

TEXTS = ["The answer is 3.", "The answer is 4.", "#### 4", "I do not know."]
TOKENS = [[-0.1, -0.1], [-4.0, -0.1, -0.1], [-5.0], [-0.1]]


def rows(questions: int = 3) -> list[dict[str, Any]]:
    """Rows of a ``paths.parquet``, the questions' rows dealt out one by one."""
    return [
        {
            "question_id": f"q{question}",
            "path": index,
            "text": text,
            "token_ids": [1] * len(tokens),
            "num_tokens": len(tokens),
            "cumulative_logprob": sum(tokens),
            "finish_reason": "stop",
            "answer": fastsi.vote.answer_key(text),
            "token_logprobs": tokens,
        }
        for index, (text, tokens) in enumerate(zip(TEXTS, TOKENS, strict=True))
        for question in range(questions)
    ]


def json_lines(path: Path, records: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "weights", ["uniform", "logprob_sum", "logprob_mean", "cisc:0.3", "window:2"]
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_file_votes_as_its_groups_do(tmp_path: Path, weights: str, suffix: str) -> None:
    path = tmp_path / f"paths{suffix}"
    if suffix == ".parquet":
        write_table(path, PATHS, rows())
    else:
        json_lines(path, rows())
    votes = vote_file(path, weights=weights, out=tmp_path / f"votes{suffix}")
    assert list(votes) == ["q0", "q1", "q2"]
    expected = fastsi.vote.vote(TEXTS, logprobs=TOKENS, weights=weights)
    for outcome in votes.values():
        assert (outcome.winner, outcome.counts) == (expected.winner, expected.counts)
        assert outcome.share == pytest.approx(expected.share, rel=1e-6)  # tokens are float32 there
    assert votes["q0"].winner == ("num:4" if weights == "uniform" else "num:3")
    written = tmp_path / f"votes{suffix}"
    if suffix == ".parquet":
        stored = read_rows(written, VOTES)
        of_a_round = vote_rows(read_rows(path, PATHS), weights)
        assert [row["winner"] for row in stored] == [row["winner"] for row in of_a_round]
        assert [row["weights"] for row in stored] == [
            None if row["weights"] is None else pytest.approx(row["weights"]) for row in of_a_round
        ]
    else:
        stored = [json.loads(line) for line in written.read_text().splitlines()]
        assert list(stored[0]) == VOTES.names
    assert [row["question_id"] for row in stored] == ["q0", "q1", "q2"]
    assert stored[0]["counts"][0]["answer"] == votes["q0"].winner
    assert (stored[0]["weights"] is None) == (weights == "uniform")


def test_log_probabilities_from_any_column(tmp_path: Path) -> None:
    records = [
        {"q": 7, "r": text, "sum": sum(tokens), "each": tokens, "len": len(tokens)}
        for text, tokens in zip(TEXTS, TOKENS, strict=True)
    ]
    path = json_lines(tmp_path / "mine.json", records)
    columns = {"text_field": "r", "group_field": "q"}
    mean = vote_file(path, weights="logprob_mean", logprob_field="each", **columns)["7"]
    same = vote_file(
        path, weights="logprob_mean", logprob_field="sum", length_field="len", **columns
    )["7"]
    assert mean.weights is not None
    assert mean.weights == pytest.approx(same.weights)
    with pytest.raises(DataError, match=r":1: field 'sum': .*num_tokens \(got -0.2\)"):
        vote_file(path, weights="logprob_mean", logprob_field="sum", **columns)
    with pytest.raises(DataError, match=r":1: field 'sum': weights='window:2'.*not their sum"):
        vote_file(path, weights="window:2", logprob_field="sum", **columns)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": None}, ["field 'text'", "must be a string"]),
        ({"question_id": 1.5}, ["field 'question_id'", "string or an integer", "1.5"]),
        ({"question_id": True}, ["field 'question_id'", "True"]),
        ({"cumulative_logprob": "low"}, ["field 'cumulative_logprob'", "'low'"]),
        ({"cumulative_logprob": None}, ["field 'cumulative_logprob'", "missing"]),
        ({"cumulative_logprob": [0.0, "x"]}, ["field 'cumulative_logprob'", "list"]),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    good = rows(1)
    path = json_lines(tmp_path / "p.jsonl", [good[0], good[1] | change])
    with pytest.raises(DataError) as caught:
        vote_file(path, weights="logprob_sum", out=tmp_path / "v.jsonl")
    for word in [f"{path}:2: ", *words]:
        assert word in str(caught.value)
    assert not (tmp_path / "v.jsonl").exists()


def test_bad_parquet_rows_and_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    texts = ["The answer is 3."] * 3000
    texts_with_hole: list[str | None] = [*texts[:2500], None, *texts[2501:]]
    pq.write_table(pa.table({"question_id": [1] * 3000, "text": texts_with_hole}), path)
    with pytest.raises(DataError, match=r"p.parquet:2501: field 'text': must be a string"):
        vote_file(path)
    with pytest.raises(DataError, match=r"field 'response': no such column.*question_id, text"):
        vote_file(path, text_field="response")


def test_files_that_will_not_do(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "p.jsonl", rows(1))
    with pytest.raises(ConfigError, match=r"out='.*votes.csv': must end in .parquet or .jsonl"):
        vote_file(path, out=tmp_path / "votes.csv")
    (tmp_path / "old.jsonl").write_text("precious")
    with pytest.raises(ArtifactError, match="exists"):
        vote_file(path, out=tmp_path / "old.jsonl")
    assert (tmp_path / "old.jsonl").read_text() == "precious"
    with pytest.raises(ConfigError, match="did you mean 'cisc'"):
        vote_file(tmp_path / "absent.jsonl", weights="cics:1")


def test_files_of_earlier_versions_are_readable(tmp_path: Path) -> None:
    """Columns that came later are null in them, and what needs those columns says so."""
    old = pa.schema([field for field in PATHS if field.name != "token_logprobs"])
    path = tmp_path / "paths.parquet"
    without = [{k: v for k, v in row.items() if k != "token_logprobs"} for row in rows(1)]
    write_table(path, old, without)
    read = read_rows(path, PATHS)
    assert [row["token_logprobs"] for row in read] == [None] * 4
    assert [row["text"] for row in read] == TEXTS
    assert vote_rows(read, "logprob_mean")[0]["winner"] == "num:3"
    with pytest.raises(ConfigError, match="sampled without token_logprobs"):
        vote_rows(read, "window:2")
    with pytest.raises(DataError, match=r":1: field 'token_logprobs': missing"):
        vote_file(path, weights="window:2")
    write_table(tmp_path / "bad.parquet", pa.schema(list(old)[1:]), without)
    with pytest.raises(ArtifactError, match="columns are path, text"):
        read_rows(tmp_path / "bad.parquet", PATHS)


def test_progress_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"question_id": [1] * 2500, "text": ["#### 4"] * 2500}), path)
    told: list[int] = []
    assert vote_file(path, advance=told.append)["1"].counts == {"num:4": 2500}
    assert sum(told) == 2500


def test_the_command_does_not_load_torch(tmp_path: Path) -> None:
    json_lines(tmp_path / "p.jsonl", rows(1))
    script = (
        "import sys\n"
        "from fastsi.cli.__main__ import main\n"
        "code = main(['vote', 'p.jsonl', '--weights=cisc:0.5', '--json'])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["votes"]["q0"]["winner"] == "num:3"
