"""``--stopping`` of the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fastsi.vote import decide
from tests.cli.conftest import Cli


def test_sample_keeps_the_paths_that_count(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """The real engine: the file of a stopped sampling is the start of the full one's groups."""
    whole, few = tmp_path / "whole.parquet", tmp_path / "few.parquet"
    asked = ["--model", "builtin", "--questions", inputs["questions"], "--limit", 4, "--n", 8]
    asked += ["--max-tokens", 80]
    assert cli("sample", *asked, "--out", whole).code == 0
    record = cli("sample", *asked, "--stopping=window:2", "--out", few, "--json").json()
    rows, kept = (pq.read_table(each).to_pylist() for each in (whole, few))
    assert record["paths"] == len(kept) < len(rows) == 32
    for question in dict.fromkeys(row["question_id"] for row in rows):
        mine = [row for row in rows if row["question_id"] == question]
        stop = decide("window:2", [row["answer"] for row in mine])
        assert stop is not None
        texts = [row["text"] for row in kept if row["question_id"] == question]
        assert texts == [row["text"] for row in mine[: stop.at]]
    assert all(row["stop_reason"] is None or row["stop_reason"] == "\nQ:" for row in kept)


def test_vote_replays_a_rule(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "paths.jsonl"
    answers = {"a": [3, 3, 3, 3, 4, 4, 4, 4, 4], "b": [5, 6, 5, 5, 5], "c": [7]}
    path.write_text(
        "".join(
            json.dumps({"question_id": name, "text": f"The answer is {answer}."}) + "\n"
            for name, group in answers.items()
            for answer in group
        )
    )
    votes = cli("vote", path, "--stopping=beta:0.95", "--json").json()["votes"]
    told = {name: (vote["winner"], vote["n"], vote["stop_reason"]) for name, vote in votes.items()}
    assert told == {
        "a": ("num:3", 4, "beta"),
        "b": ("num:5", 5, "full"),
        "c": ("num:7", 1, "full"),
    }
    assert cli("vote", path, "--json").json()["votes"]["a"]["winner"] == "num:4"


@pytest.mark.parametrize("command", ["sample", "improve", "vote"])
def test_bad_rules_end_in_one_line(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, command: str
) -> None:
    paths = tmp_path / "paths.jsonl"
    paths.write_text('{"question_id": "a", "text": "The answer is 3."}\n')
    asked = ["--model", "builtin", "--questions", inputs["questions"], "--out", tmp_path / "new"]
    options = [paths] if command == "vote" else asked
    said = cli(command, *options, "--stopping=widow:5").refusal()
    assert "unknown stopping rule 'widow'; did you mean 'window'" in said
    assert not (tmp_path / "new").exists()
