"""The package's face: public names, votes, evaluations that are not repeated, whole runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import fastsi
from fastsi import api, engine
from fastsi.data.questions import read_questions
from fastsi.errors import ArtifactError, ConfigError, DataError, PromptTooLong
from fastsi.evaluate import EvaluateConfig, Problems, store
from fastsi.train.config import ImproveConfig
from fastsi.types import Question, SamplingParams
from tests.cli.scripted import SETTINGS, LearningSampler, write_inputs
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model


@pytest.fixture(scope="module")
def tiny() -> fastsi.LLM:
    """The real engine on a tiny random model; float64, so that batches do not change a token."""
    return fastsi.LLM(
        make_model("llama", 5, vocab_size=BYTE_VOCAB, dtype=torch.float64),
        tokenizer=byte_tokenizer(),
    )


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> LearningSampler:
    """A scripted engine; loading it gives itself."""
    monkeypatch.setattr(api, "load_model", lambda model: model)
    return LearningSampler()


def problems(folder: Path, **settings: Any) -> Problems:
    files = write_inputs(folder)
    config = EvaluateConfig(**{"paths": 6, **settings})
    return Problems.read(files["held-out"], files["gold"], config=config)


def test_public_names_are_lazy_and_all_there() -> None:
    program = (
        "import sys, fastsi\n"
        "heavy = {'torch', 'transformers', 'numpy', 'fastsi._C'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "missing = set(fastsi.__all__) - set(dir(fastsi))\n"
        "assert not missing, missing\n"
        "assert fastsi.vote.answer_key('The answer is 3.') == 'num:3'\n"
        "assert 'torch' not in sys.modules\n"
        "values = [getattr(fastsi, name) for name in fastsi.__all__]\n"
        "assert all(value is not None for value in values)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert issubclass(fastsi.LLM, engine.LLM)
    with pytest.raises(AttributeError, match="no attribute 'LMM'"):
        fastsi.LMM  # noqa: B018


def test_votes_of_the_engine_are_votes_over_its_texts(tiny: fastsi.LLM) -> None:
    params = SamplingParams(n=5, max_tokens=12, seed=3)
    votes = tiny.vote(["The answer is 3", "1 + 1 ="], params)
    outputs = tiny.generate(["The answer is 3", "1 + 1 ="], params)
    for outcome, group in zip(votes, outputs, strict=True):
        texts = [path.text for path in group.outputs]
        logprobs = [path.cumulative_logprob for path in group.outputs]
        assert outcome == fastsi.vote.vote(texts, logprobs=logprobs)
        assert outcome.n == 5


def test_vote_refuses_rules_that_do_not_exist(tiny: fastsi.LLM) -> None:
    with pytest.raises(ConfigError, match="unknown stopping rule 'exat'; did you mean 'exact'"):
        tiny.vote("Q", stopping="exat")
    with pytest.raises(ConfigError, match="did you mean 'boxed'"):
        tiny.vote("Q", extractor="boxde")


def test_sample_keeps_order_and_refuses_long_prompts_before_sampling(
    tiny: fastsi.LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_BLOCK", 2)
    asked = [Question(id=f"q{i}", question=f"What is {i}?") for i in range(5)]
    params = SamplingParams(n=3, max_tokens=6, seed=1)
    told = api.sample(tiny, asked, out=tmp_path / "p.parquet", sampling=params, progress=False)
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert [(row["question_id"], row["path"]) for row in rows] == [
        (f"q{i}", path) for i in range(5) for path in range(3)
    ]
    assert (told["paths"], told["tokens"]) == (15, sum(row["num_tokens"] for row in rows))
    monkeypatch.setattr(api, "_BLOCK", 64)
    api.sample(tiny, asked, out=tmp_path / "whole.parquet", sampling=params, progress=False)
    whole = pq.read_table(tmp_path / "whole.parquet").to_pylist()
    assert [row["token_ids"] for row in whole] == [row["token_ids"] for row in rows]

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("sampled")

    monkeypatch.setattr(tiny, "generate", never)
    long = [*asked, Question(id="long", question="word " * 200)]
    with pytest.raises(PromptTooLong, match="question 'long'"):
        api.sample(tiny, long, out=tmp_path / "long.parquet", progress=False)


def test_vote_of_a_file_equals_votes_of_its_groups(tmp_path: Path) -> None:
    texts = {"a": ["The answer is 3.", "The answer is 4.", "hm"], "b": ["The answer is 5."]}
    rows = [
        {"question_id": name, "text": text, "cumulative_logprob": -1.0 - index}
        for name, group in texts.items()
        for index, text in enumerate(group)
    ]
    mixed = [rows[3], *rows[:3]]  # groups need not be contiguous, nor in order
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in mixed))
    votes = api.vote(path, out=tmp_path / "v.parquet")
    assert list(votes) == ["b", "a"]
    assert votes["a"] == fastsi.vote.vote(texts["a"], logprobs=[-1.0, -2.0, -3.0])
    assert votes["a"].winner == "num:3"  # a tie, settled by log-probability
    stored = pq.read_table(tmp_path / "v.parquet").to_pylist()
    assert [row["winner"] for row in stored] == ["num:5", "num:3"]
    with pytest.raises(DataError, match="no paths"):
        api.vote(_empty(tmp_path))


def _empty(folder: Path) -> Path:
    path = folder / "empty.jsonl"
    path.write_text("\n")
    return path


def test_an_evaluation_is_not_repeated_unless_something_changed(
    learner: LearningSampler, tmp_path: Path
) -> None:
    chosen = problems(tmp_path / "data")
    folder = tmp_path / "evaluation"
    first = api.evaluate_model(learner, chosen, folder=folder, progress=False)  # type: ignore[arg-type]
    calls = len(learner.calls)
    again = api.evaluate_model(learner, chosen, folder=folder, progress=False)  # type: ignore[arg-type]
    assert again == first == store.load(folder, "evaluation")
    assert len(learner.calls) == calls

    parameter = next(learner.model.parameters())
    parameter.data.add_(0.5)  # a trained model under the same name
    better = api.evaluate_model(learner, chosen, folder=folder, progress=False)  # type: ignore[arg-type]
    assert better.summary().sample > first.summary().sample + 0.2
    assert len(learner.calls) > calls

    with pytest.raises(ArtifactError, match=r"evaluate\.paths: 6 there, 7 here"):
        api.evaluate_model(
            learner,  # type: ignore[arg-type]
            problems(tmp_path / "data", paths=7),
            folder=folder,
            progress=False,
        )
    # How the work is cut into calls is not part of what is evaluated.
    small = problems(tmp_path / "data", block=7)
    assert api.evaluate_model(learner, small, folder=folder, progress=False) == better  # type: ignore[arg-type]


def test_an_interrupted_run_keeps_what_it_evaluated(
    learner: LearningSampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = problems(tmp_path / "data")
    asked = read_questions(tmp_path / "data" / "questions.jsonl")
    config = ImproveConfig.from_dict(SETTINGS)
    run = tmp_path / "run"

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(api, "run_rounds", stopped)
        with pytest.raises(KeyboardInterrupt):
            api.improve(learner, asked, run, config=config, problems=chosen, progress=False)  # type: ignore[arg-type]
    before = (run / "evaluation" / "before.json").read_bytes()
    calls = len(learner.calls)
    result = api.improve(learner, asked, run, config=config, problems=chosen, progress=False)  # type: ignore[arg-type]
    assert (run / "evaluation" / "before.json").read_bytes() == before
    assert learner.calls[calls][0] == learner.calls[0][0]  # went on with sampling from the base
    assert result["after"]["sample"] > result["before"]["sample"]
    with pytest.raises(ArtifactError, match=r"model\.fingerprint"):
        api.improve(learner, asked, run, config=config, progress=False)  # type: ignore[arg-type]


def test_gold_answers_cannot_change_what_is_learned(
    learner: LearningSampler, tmp_path: Path
) -> None:
    """The same rounds with right, with wrong, and without gold answers."""
    chosen = problems(tmp_path / "data")
    wrong = dict.fromkeys(chosen.gold, chosen.gold["h0"])
    variants = {
        "right": chosen,
        "wrong": Problems(
            questions=chosen.questions, gold=wrong, prompt=chosen.prompt, config=chosen.config
        ),
        "none": None,
    }
    asked = read_questions(tmp_path / "data" / "questions.jsonl")
    hashes = set()
    for name, each in variants.items():
        llm: Any = LearningSampler()
        run = tmp_path / name
        config = ImproveConfig.from_dict(SETTINGS)
        api.improve(llm, asked, run, config=config, problems=each, progress=False)
        artifacts = json.loads((run / "manifest.json").read_text())["artifacts"]
        names = [f"round-1/{part}" for part in ("paths.parquet", "train.parquet", "checkpoint")]
        hashes.add(tuple(artifacts[part]["sha256"] for part in names))
    assert len(hashes) == 1
