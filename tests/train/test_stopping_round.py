"""Rounds that stop questions early: fewer paths, votes that say why, the same after a kill."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fastsi.data.manifest import Manifest
from fastsi.errors import ConfigError
from fastsi.train import ImproveConfig, run_rounds
from fastsi.vote import decide
from tests.support.standin import ScriptedSampler, questions
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model

PATHS = 10


def config(stopping: str | None, weights: str = "uniform") -> ImproveConfig:
    return ImproveConfig.from_dict(
        {
            "sample": {"paths": PATHS, "shard_questions": 4, "stopping": stopping},
            "train": {"steps": 2, "batch_size": 2},
            "weights": weights,
        }
    )


def sampler() -> ScriptedSampler:
    return ScriptedSampler(make_model("llama", 3, vocab_size=BYTE_VOCAB), byte_tokenizer())


@pytest.mark.parametrize("rule", ["exact", "beta:0.9", "window:3"])
def test_a_round_keeps_the_paths_that_count_and_says_why(tmp_path: Path, rule: str) -> None:
    run_rounds(sampler(), config(None), questions(10), tmp_path / "all", progress=False)
    run_rounds(sampler(), config(rule), questions(10), tmp_path / "few", progress=False)

    def paths(name: str) -> dict[str, list[str | None]]:
        found: dict[str, list[str | None]] = {}
        for row in pq.read_table(tmp_path / name / "round-1" / "paths.parquet").to_pylist():
            found.setdefault(row["question_id"], []).append(row["answer"])
        return found

    everything, kept = paths("all"), paths("few")
    votes = pq.read_table(tmp_path / "few" / "round-1" / "votes.parquet").to_pylist()
    assert sum(map(len, kept.values())) < sum(map(len, everything.values()))
    for vote in votes:
        stop = decide(rule, everything[vote["question_id"]], PATHS)
        assert stop is not None
        assert kept[vote["question_id"]] == everything[vote["question_id"]][: stop.at]
        assert (vote["n"], vote["stop_reason"]) == (stop.at, stop.reason)
    whole = pq.read_table(tmp_path / "all" / "round-1" / "votes.parquet").to_pylist()
    assert {vote["stop_reason"] for vote in whole} == {"full"}


class Killed(Exception):
    pass


def _dies_after(call: int) -> Callable[..., None]:
    """`Manifest.record`, raising after its call number ``call``."""
    real, calls = Manifest.record, itertools.count(1)

    def record(*args: Any, **kw: Any) -> None:
        real(*args, **kw)
        if next(calls) == call:
            raise Killed

    return record


def test_a_resumed_run_has_the_same_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_rounds(sampler(), config("beta:0.9"), questions(10), tmp_path / "whole", progress=False)
    real = Manifest.record
    for call in (1, 2, 3, 4):
        folder = tmp_path / f"killed-{call}"
        monkeypatch.setattr(Manifest, "record", _dies_after(call))
        with pytest.raises(Killed):
            run_rounds(sampler(), config("beta:0.9"), questions(10), folder, progress=False)
        monkeypatch.setattr(Manifest, "record", real)
        run_rounds(sampler(), config("beta:0.9"), questions(10), folder, progress=False)
        for name in ("paths.parquet", "votes.parquet"):
            found, want = (each / "round-1" / name for each in (folder, tmp_path / "whole"))
            assert found.read_bytes() == want.read_bytes(), (call, name)


def test_bad_rules_are_refused_when_the_config_is_made() -> None:
    with pytest.raises(ConfigError, match="unknown stopping rule 'betta'; did you mean 'beta'"):
        config("betta:0.9")
    with pytest.raises(ConfigError, match="weights could change the winner after the stop"):
        config("exact", "logprob_sum")
    assert config("beta").sample.stopping == "beta:0.95"
    assert config("none").sample.stopping is None
    made = config("window:4")
    assert ImproveConfig.from_dict(made.to_dict()) == made
