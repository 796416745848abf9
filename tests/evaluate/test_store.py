"""Stored evaluations: what is read back is what was written; damage and other weights show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastsi.data.manifest import Manifest
from fastsi.errors import ArtifactError
from fastsi.evaluate import GoldAnswer, Responses, score, store
from fastsi.types import Question


def make(answer: str = "3") -> store.StoredEvaluation:
    questions = (Question(id="a", question="1 + 2?"), Question(id="b", question="2 + 2?"))
    gold = {"a": GoldAnswer(answer="3", key="num:3"), "b": GoldAnswer(answer="4", key="num:4")}
    responses = tuple(
        Responses(
            greedy=f"The answer is {answer}.", texts=("hm", "The answer is 4."), logprobs=(-1.5, -2)
        )
        for _ in questions
    )
    return store.StoredEvaluation(
        rows=tuple(score(questions, gold, responses)),
        questions=questions,
        responses=responses,
        seconds=1.25,
    )


def test_round_trip(tmp_path: Path) -> None:
    stored = make()
    with Manifest(tmp_path / "evaluation", {"seed": 1}) as folder:
        assert not store.is_stored(folder, "before", "weights-1")
        store.save(folder, "before", stored, "weights-1")
        assert store.is_stored(folder, "before", "weights-1")
        assert not store.is_stored(folder, "before", "weights-2")
        assert not store.is_stored(folder, "after", "weights-1")
    assert store.load(tmp_path / "evaluation", "before") == stored
    scores = json.loads((tmp_path / "evaluation" / "before.json").read_text())
    assert scores["evaluation"]["greedy"] == 0.5
    with Manifest(tmp_path / "evaluation", {"seed": 1}) as folder:
        assert store.is_stored(folder, "before", "weights-1")


def test_new_responses_make_old_scores_stale(tmp_path: Path) -> None:
    with Manifest(tmp_path, {}) as folder:
        store.save(folder, "after", make("3"), "w")
        store.save(folder, "after", make("4"), "w")
        assert store.load(tmp_path, "after") == make("4")


@pytest.mark.parametrize("name", ["before.json", "before.parquet"])
def test_missing_and_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    with Manifest(tmp_path, {}) as folder:
        store.save(folder, "before", make(), "w")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="damaged evaluation 'before'"):
        store.load(tmp_path, "before")
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: missing"):
        store.load(tmp_path, "before")
