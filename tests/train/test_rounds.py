"""Whole rounds on a scripted sampler: artifacts, resume after any fault, and the guards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import fastsi.train.rounds as rounds_module
from fastsi.data.manifest import Manifest, content_hash
from fastsi.errors import ArtifactError, ConfigError, PromptTooLong, TemplateCollapse
from fastsi.train import ImproveConfig, RoundReport, run_rounds
from fastsi.train.checkpoint import fingerprint
from fastsi.types import Question
from fastsi.vote import answer_key, majority
from tests.support.small_disk import resize, small_disk
from tests.support.standin import ScriptedSampler, questions
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model

QUICK: dict[str, Any] = {
    "sample": {"paths": 6, "shard_questions": 4},
    "train": {"steps": 5, "batch_size": 4, "learning_rate": 3e-3, "save_every": 2},
}
FILES = ("paths.parquet", "votes.parquet", "train.parquet")


def config(**changes: Any) -> ImproveConfig:
    merged = {
        k: {**QUICK.get(k, {}), **v} if isinstance(v, dict) else v for k, v in changes.items()
    }
    return ImproveConfig.from_dict({**QUICK, **merged})


def sampler(**kw: Any) -> ScriptedSampler:
    return ScriptedSampler(make_model("llama", 3, vocab_size=BYTE_VOCAB), byte_tokenizer(), **kw)


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(run / name).to_pylist()


def test_a_round_leaves_its_artifacts(tmp_path: Path) -> None:
    llm = sampler()
    base = fingerprint(llm.model)
    (report,) = run_rounds(llm, config(), questions(10), tmp_path / "run", progress=False)
    run = tmp_path / "run"
    paths, votes, train = (rows(run / "round-1", name) for name in FILES)
    assert [(p["question_id"], p["path"]) for p in paths] == [
        (f"q{q}", i) for q in range(10) for i in range(6)
    ]
    for path in paths:
        assert path["answer"] == answer_key(path["text"])
        assert path["num_tokens"] == len(path["token_ids"])
    for vote in votes:
        own = [p for p in paths if p["question_id"] == vote["question_id"]]
        expected = majority([p["answer"] for p in own], [p["cumulative_logprob"] for p in own])
        assert vote["winner"] == expected.winner
        assert vote["share"] == expected.share
        assert {c["answer"]: c["votes"] for c in vote["counts"]} == expected.counts
    assert {row["format"] for row in train} == {"cot", "step_by_step"}
    winners = {vote["question_id"]: vote["winner"] for vote in votes}
    assert all(answer_key(row["target"]) == winners[row["question_id"]] for row in train)
    listed = json.loads((run / "manifest.json").read_text())["artifacts"]
    assert set(listed) == {f"round-1/{name}" for name in (*FILES, "checkpoint", "metrics.json")}
    assert all(content_hash(run / name) == entry["sha256"] for name, entry in listed.items())
    assert not any(run.rglob("*.partial"))
    # The sampler now holds the trained model: the module is the same and so are the weights.
    trained = fingerprint(llm.model)
    assert trained != base
    assert not llm.model.training
    stored = type(llm.model).from_pretrained(report.checkpoint)
    assert fingerprint(stored) == trained


def test_the_numbers_of_a_round_follow_from_its_artifacts(tmp_path: Path) -> None:
    (report,) = run_rounds(sampler(), config(), questions(10), tmp_path / "run", progress=False)
    paths, votes, train = (rows(tmp_path / "run" / "round-1", name) for name in FILES)
    assert report.questions == 10
    assert report.paths == 60
    assert report.consistency == pytest.approx(sum(v["share"] for v in votes) / 10)
    assert report.parse_rate == sum(p["answer"] is not None for p in paths) / 60
    assert report.cut_rate == sum(p["finish_reason"] == "length" for p in paths) / 60
    different = [
        {p["answer"] for p in paths if p["question_id"] == f"q{q}"} - {None} for q in range(10)
    ]
    assert report.distinct_answers == sum(map(len, different)) / 10
    assert report.decided == sum(v["winner"] is not None and v["margin"] >= 2 for v in votes)
    assert report.kept_paths == len({(r["question_id"], r["path"]) for r in train})
    assert report.kept_questions == len({r["question_id"] for r in train})
    assert report.examples == len(train)
    assert len(report.loss) == len(report.grad_norm) == 5
    assert report.loss[-1] < report.loss[0]
    assert set(report.seconds) == {"sample", "vote", "select", "train"}
    assert all(value > 0 for value in [*report.seconds.values(), *report.tokens_per_s.values()])
    assert 0 <= report.padding_share < 1
    stored = RoundReport.load(tmp_path / "run" / "round-1" / "metrics.json")
    assert stored == report


@pytest.mark.parametrize("start_from", ["base", "last"])
def test_a_second_round_samples_from_the_first(tmp_path: Path, start_from: str) -> None:
    llm = sampler()
    base = fingerprint(llm.model)
    settings = config(rounds=2, start_from=start_from, train={"steps": 3})
    starts: list[str] = []
    original = rounds_module.fine_tune

    def spy(model: Any, *args: Any, **kw: Any) -> Any:
        starts.append(fingerprint(model))
        return original(model, *args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds_module, "fine_tune", spy)
        reports = run_rounds(llm, settings, questions(8), tmp_path / "run", progress=False)
    first, second = (fingerprint(type(llm.model).from_pretrained(r.checkpoint)) for r in reports)
    assert [weights for weights, _ in llm.calls] == [base, base, first, first]
    assert starts == [base, base if start_from == "base" else first]
    assert fingerprint(llm.model) == second
    assert len({base, first, second}) == 3


def test_more_rounds_may_follow_a_finished_run(tmp_path: Path) -> None:
    once = run_rounds(sampler(), config(rounds=2), questions(8), tmp_path / "a", progress=False)
    run_rounds(sampler(), config(rounds=1), questions(8), tmp_path / "b", progress=False)
    llm = sampler()
    later = run_rounds(llm, config(rounds=2), questions(8), tmp_path / "b", progress=False)
    assert len(llm.calls) == 2, "the first round is not sampled again"
    assert [r.loss for r in later] == [pytest.approx(r.loss) for r in once]
    again = sampler()
    reports = run_rounds(lambda: again, config(rounds=2), questions(8), tmp_path / "b", False)
    assert again.calls == []
    assert fingerprint(again.model) == fingerprint(llm.model)
    assert reports == later


class Killed(Exception):
    pass


def _die_on(call: int, function: Callable[..., Any], after: bool) -> Callable[..., Any]:
    """``function``, raising before or after its call number ``call``."""
    calls = 0

    def wrapper(*args: Any, **kw: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        result = function(*args, **kw)
        if calls == call:
            raise Killed
        return result

    return wrapper


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(1, 10))
def test_a_run_stopped_around_any_record_ends_the_same(
    tmp_path: Path, call: int, after: bool, reference: Path
) -> None:
    """`Manifest.record` is where a phase becomes finished: both sides of each call are tried."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "record", _die_on(call, Manifest.record, after))
        try:
            run_rounds(sampler(), config(), questions(10), run, progress=False)
        except Killed:
            pass
        else:
            assert call > 8, "a run of 3 shards and 5 artifacts records 8 times"
    run_rounds(sampler(), config(), questions(10), run, progress=False)
    assert_same_run(run, reference)


@pytest.fixture(name="reference", scope="module")
def _reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    torch.set_num_threads(1)
    run_rounds(sampler(), config(), questions(10), run, progress=False)
    return run


def assert_same_run(found: Path, expected: Path) -> None:
    names = sorted(p.relative_to(expected) for p in expected.rglob("*") if p.is_file())
    assert sorted(p.relative_to(found) for p in found.rglob("*") if p.is_file()) == names
    for name in (f"round-1/{file}" for file in FILES):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    model = make_model("llama", 3, vocab_size=BYTE_VOCAB)
    load = type(model).from_pretrained
    pairs = zip(
        load(found / "round-1/checkpoint").parameters(),
        load(expected / "round-1/checkpoint").parameters(),
        strict=True,
    )
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)


def test_a_deleted_artifact_is_made_again_with_all_that_follows(
    tmp_path: Path, reference: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    (run / "round-1/paths.parquet").unlink()
    shutil.rmtree(run / "round-1/checkpoint")
    llm = sampler()
    run_rounds(llm, config(), questions(10), run, progress=False)
    assert len(llm.calls) == 3
    assert_same_run(run, reference)


@pytest.mark.parametrize(
    ("changes", "asked", "seed", "words"),
    [
        ({"seed": 1}, 10, 3, "seed: 0 there, 1 here"),
        ({"sample": {"paths": 5}}, 10, 3, "sample.paths: 6 there, 5 here"),
        ({}, 9, 3, "questions.count: 10 there, 9 here"),
        ({}, 10, 4, "model.fingerprint"),
        ({"prompt": {"exemplars": "builtin"}}, 10, 3, "exemplars.count: 0 there, 6 here"),
    ],
)
def test_a_folder_of_another_run_is_refused_untouched(
    tmp_path: Path, reference: Path, changes: dict[str, Any], asked: int, seed: int, words: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    before = content_hash(run)
    llm = ScriptedSampler(make_model("llama", seed, vocab_size=BYTE_VOCAB), byte_tokenizer())
    with pytest.raises(ArtifactError, match=words):
        run_rounds(llm, config(**changes), questions(asked), run, progress=False)
    assert llm.calls == []
    assert content_hash(run) == before


def test_a_full_disk_stops_a_run_in_one_line_and_it_goes_on_when_there_is_room(
    tmp_path: Path, reference: Path
) -> None:
    """Room for the tables, then for one training state (weights and two moments), then for two."""
    weights = (reference / "round-1/checkpoint/model.safetensors").stat().st_size // 1024
    tables = 64
    rooms = (
        (tables + weights, "train.parquet"),
        (tables + 4 * weights, ".training-state"),
        (tables + 8 * weights, None),
    )
    with small_disk(tmp_path / "disk", tables) as disk:
        run = disk / "run"
        for room, finished in rooms:
            resize(disk, room)
            if finished is None:
                run_rounds(sampler(), config(), questions(10), run, progress=False)
                break
            with pytest.raises(ArtifactError, match="No space left on device") as caught:
                run_rounds(sampler(), config(), questions(10), run, progress=False)
            assert "\n" not in str(caught.value)
            assert (run / "round-1" / finished).exists()
            assert not (run / "round-1/checkpoint").exists()
            assert not any(run.rglob("*.partial"))
        assert_same_run(run, reference)


def test_how_often_to_save_may_change(tmp_path: Path, reference: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    llm = sampler()
    run_rounds(llm, config(train={"save_every": 1}), questions(10), run, progress=False)
    assert llm.calls == []


def test_a_damaged_artifact_is_named(tmp_path: Path, reference: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    (run / "round-1/votes.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"votes\.parquet: damaged"):
        run_rounds(sampler(), config(), questions(10), run, progress=False)


def test_exemplars_bring_all_four_formats(tmp_path: Path) -> None:
    llm = ScriptedSampler(make_model("llama", 3, vocab_size=BYTE_VOCAB), byte_tokenizer())
    llm.model.config.max_position_embeddings = 4096
    settings = config(prompt={"exemplars": "builtin"}, train={"steps": 1, "batch_size": 2})
    run_rounds(llm, settings, questions(6), tmp_path / "run", progress=False)
    train = rows(tmp_path / "run/round-1", "train.parquet")
    assert {row["format"] for row in train} == {"cot", "standard", "step_by_step", "direct"}
    bare = [row for row in train if row["format"] in ("standard", "direct")]
    assert all(row["target"].startswith(" The answer is ") for row in bare)
    assert len({(row["prompt"], row["target"]) for row in train}) == len(train)


def test_examples_longer_than_the_context_are_left_out_and_counted(tmp_path: Path) -> None:
    llm = sampler()
    longest = len(byte_tokenizer()("Q: Add 3 and 5.\nA:")["input_ids"]) + 40
    llm.model.config.max_position_embeddings = longest
    (report,) = run_rounds(llm, config(), questions(8), tmp_path / "run", progress=False)
    assert 0 < report.skipped_examples < report.examples


def test_a_prompt_that_leaves_no_room_is_named_before_any_sampling(tmp_path: Path) -> None:
    llm = sampler()
    asked = [*questions(3), Question(id="novel", question="x" * 600 + " 1 2")]
    with pytest.raises(PromptTooLong, match="question 'novel': its prompt has 610 tokens"):
        run_rounds(llm, config(), asked, tmp_path / "run", progress=False)
    assert llm.calls == []


def test_a_vote_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    strict = config(select={"min_lead": 7})
    with pytest.raises(ConfigError, match="no path of 5 questions passed the selection"):
        run_rounds(sampler(), strict, questions(5), tmp_path / "run", progress=False)


def test_collapse_stops_the_run_before_training(tmp_path: Path) -> None:
    llm = sampler()
    llm._path = lambda index, first, second, draw: ScriptedSampler._path(llm, index, 1, 1, 1)  # type: ignore[method-assign]
    before = fingerprint(llm.model)
    with pytest.raises(TemplateCollapse, match=r"round 1: the answer 'num:2' wins 30 of 30"):
        run_rounds(llm, config(), questions(30), tmp_path / "run", progress=False)
    assert fingerprint(llm.model) == before


@pytest.mark.parametrize("asked", [[], [*questions(2), *questions(1)]])
def test_questions_must_be_there_and_have_unique_ids(tmp_path: Path, asked: list[Question]) -> None:
    with pytest.raises(ConfigError, match="question"):
        run_rounds(sampler(), config(), asked, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_contradicting_formats_are_refused_before_any_work(tmp_path: Path) -> None:
    settings = config(mix={"formats": ["cot", "direct"]})
    with pytest.raises(ConfigError, match="same prompt"):
        run_rounds(sampler(), settings, questions(3), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
