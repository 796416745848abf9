"""Commands on good input: what they print, what they write, and that they go on where they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fastsi import api, env, vote, vote_files
from fastsi.cli import _demo, _improve, _sample
from fastsi.cli._config import Tables
from fastsi.data.manifest import content_hash
from fastsi.errors import ConfigError
from fastsi.evaluate import METRICS, EvaluateConfig
from fastsi.train.config import ImproveConfig
from fastsi.types import SamplingParams
from tests.cli.conftest import Cli
from tests.cli.scripted import LearningSampler

COMMANDS = ("demo", "sample", "vote", "improve", "eval", "report", "env")
SMALL = [
    "--paths=6",
    "--steps=4",
    "--learning-rate=3e-3",
    "--set=train.batch_size=4",
    "--set=sample.shard_questions=8",
]


def in_a_process(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The real command, in a process and a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fastsi.cli", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1800,
    )


def test_help_names_every_command(cli: Cli) -> None:
    ended = cli("--help")
    assert ended.code == 0
    for name in COMMANDS:
        assert name in ended.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_something_about_every_option(
    cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    ended = cli(name, "--help")
    assert ended.code == 0
    rows = [line.strip("│ ").removeprefix("*").split() for line in ended.out.splitlines()]
    options = [row for row in rows if row and row[0].startswith("--")]
    assert options
    for row in options:
        assert len(row) >= 4, f"{name} {row[0]} has no help"


def test_defaults_that_help_states_are_the_real_ones() -> None:
    improving, evaluating = _improve.configs({})
    assert (improving.rounds, improving.seed) == (1, 0)
    assert (improving.sample.paths, improving.sample.temperature) == (32, 0.7)
    assert (improving.sample.max_tokens, improving.prompt.exemplars) == (256, "none")
    assert (improving.train.steps, improving.train.learning_rate) == (150, 5e-5)
    assert evaluating == EvaluateConfig()
    shown, _ = _improve.configs(_demo.DEFAULTS)
    assert (shown.sample.paths, shown.train.steps) == (32, 200)
    sampled = SamplingParams.from_dict(_sample.DEFAULTS["sampling"])
    assert sampled == SamplingParams(n=32, temperature=0.7, max_tokens=256, seed=0)


def test_evaluations_sample_as_the_rounds_do_unless_told_otherwise() -> None:
    tables: Tables = {"sample": {"paths": 5, "max_tokens": 40}, "evaluate": {"paths": 9}}
    improving, evaluating = _improve.configs(tables)
    assert (improving.sample.paths, evaluating.paths) == (5, 9)
    assert evaluating.max_tokens == 40
    assert ImproveConfig.from_dict(improving.to_dict()) == improving


def test_env_tells_versions_backends_and_variables(cli: Cli) -> None:
    record = cli("env", "--json").json()
    assert record["versions"]["torch"]
    assert record["machine"]["isa"] in (env.ISA.choices or ())
    assert set(record["variables"]) == {variable.name for variable in env.ALL}
    assert any("segment_attention" in name for name in record["backends"])
    assert record["machine"]["isa"] in cli("env").out


def test_sample_then_vote(cli: Cli, inputs: dict[str, Path], tmp_path: Path) -> None:
    """The real engine on the bundled model; the votes in the file are those of its own texts."""
    out, votes = tmp_path / "deep" / "paths.parquet", tmp_path / "votes.parquet"
    asked = ["--questions", inputs["questions"], "--limit", 3, "--n", 4, "--max-tokens", 24]
    record = cli("sample", "--model", "builtin", *asked, "--out", out, "--json").json()
    assert (record["questions"], record["paths"]) == (3, 12)
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == [0, 1, 2, 3] * 3
    assert record["tokens"] == sum(len(row["token_ids"]) for row in rows)
    assert all(row["answer"] == vote.answer_key(row["text"]) for row in rows)

    again = tmp_path / "again.parquet"
    assert cli("sample", "--model", "builtin", *asked, "--out", again).code == 0
    assert content_hash(again) == content_hash(out)
    other = tmp_path / "other.parquet"
    assert cli("sample", "--model", "builtin", *asked, "--seed=7", "--out", other).code == 0
    assert content_hash(other) != content_hash(out)

    record = cli("vote", out, "--out", votes, "--json").json()
    assert (record["questions"], record["paths"]) == (3, 12)
    stored = pq.read_table(votes).to_pylist()
    for row in stored:
        told = record["votes"][row["question_id"]]
        assert (told["winner"], told["share"]) == (row["winner"], row["share"])


def test_sample_in_fewer_bits(cli: Cli, inputs: dict[str, Path], tmp_path: Path) -> None:
    """The options reach the engine, from the command line and from a file, and are checked."""
    asked = ["sample", "--model", "builtin", "--questions", inputs["questions"], "--limit", 2]
    asked += ["--n", 3, "--max-tokens", 24, "--temperature", 1.0]
    config = tmp_path / "small.toml"
    config.write_text('[engine]\nkv_dtype = "int8"\nquantization = "int8"\n')
    ways = {
        "plain": [],
        "cache": ["--kv-dtype", "int8"],
        "both": ["--kv-dtype", "int8", "--quantization", "int8"],
        "file": ["--config", config],
        "weights": ["--dtype", "bfloat16"],
        "all": ["--dtype", "bfloat16", "--kv-dtype", "int8", "--quantization", "int8"],
    }
    found = {}
    for name, options in ways.items():
        out = tmp_path / f"{name}.parquet"
        assert cli(*asked, *options, "--out", out).code == 0
        found[name] = pq.read_table(out).column("cumulative_logprob").to_pylist()
    assert found["file"] == found["both"]
    assert len({tuple(values) for values in found.values()}) == 5, "each option changes a little"
    out = tmp_path / "none.parquet"
    refusal = cli(*asked, "--kv-dtype", "int4", "--out", out).refusal()
    assert refusal.startswith("unknown kv_dtype 'int4'")
    assert "dtype='int8'" in cli(*asked, "--dtype", "int8", "--out", out).refusal()
    assert "engine field" in cli(*asked, "--set=engine.kv_dtypes=int8", "--out", out).refusal()
    llm = api.load_model("builtin", kv_cache_tokens=1024)
    with pytest.raises(ConfigError, match="the model is loaded already"):
        api.sample(llm, [], out=out, options={"kv_dtype": "int8"})


def test_vote_reads_other_columns_and_json_lines(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [("a", "The answer is 3."), ("a", "The answer is 3."), ("a", "no"), ("b", "it is so")]
    path.write_text("".join(json.dumps({"q": q, "r": text}) + "\n" for q, text in rows))
    record = cli("vote", path, "--group-field=q", "--text-field=r", "--json").json()
    assert record["votes"]["a"]["winner"] == "num:3"
    assert record["votes"]["a"]["share"] == pytest.approx(2 / 3)
    assert record["undecided"] == 1
    assert record["consistency"] == pytest.approx(1 / 3)
    printed = cli("vote", path, "--group-field=q", "--text-field=r", "--show=1")
    assert "num:3" in printed.out
    assert "1 more questions" in printed.out


def test_improve_evaluates_reports_and_resumes(
    cli: Cli,
    inputs: dict[str, Path],
    tmp_path: Path,
    scripted: list[LearningSampler],
) -> None:
    run = tmp_path / "run"
    words = ["improve", "--model", "x", "--questions", inputs["questions"], "--out", run, *SMALL]
    words += ["--eval-questions", inputs["held-out"], "--gold", inputs["gold"]]
    record = cli(*words, "--json").json()
    for which in ("before", "after"):
        each = record[which]
        assert each["n_problems"] == 40
        assert each["paths"] == 6
        for name in METRICS:
            low, high = each["intervals"][name]
            assert 0 <= low <= each[name] <= high <= 1
    assert record["after"]["sample"] > record["before"]["sample"] + 0.2
    assert record["change"]["sample"]["low"] > 0
    assert record["change"]["sample"]["change"] == pytest.approx(
        record["after"]["sample"] - record["before"]["sample"]
    )
    assert set(record["seconds"]) >= {"load", "evaluate_before", "sample", "train"}
    assert Path(record["report"]).is_file()
    assert (Path(record["checkpoint"]) / "model.safetensors").is_file()

    repeated = cli(*words, "--json").json()
    assert scripted[-1].calls == []  # nothing was sampled again
    for name in ("before", "after", "change"):
        assert repeated[name] == record[name]
    printed = cli(*words).out
    assert "one sample" in printed
    assert record["report"] in printed


def test_improve_without_gold_shows_votes_alone(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, scripted: list[LearningSampler]
) -> None:
    words = ["--model", "x", "--questions", inputs["questions"], "--out", tmp_path / "run", *SMALL]
    record = cli("improve", *words, "--json").json()
    assert "before" not in record
    assert record["rounds"][0]["paths"] == 96
    assert not (tmp_path / "run" / "evaluation").exists()


def test_settings_file_under_the_command_line(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, scripted: list[LearningSampler]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        f"model = 'x'\nquestions = '{inputs['questions']}'\npaths = 3\nseed = 5\nlimit = 10\n"
        "[sample]\npaths = 9\nmax_tokens = 33\nshard_questions = 8\n"
        "[train]\nsteps = 9\nbatch_size = 4\nlearning_rate = 1e-3\n"
    )
    out = tmp_path / "run"
    record = cli(
        "improve", "--config", path, "--out", out, "--steps=2", "--set=sample.max_tokens=44",
        "--set=sample.top_k=7", "--json",
    ).json()  # fmt: skip
    config = json.loads((out / "manifest.json").read_text())["config"]
    assert record["rounds"][0]["questions"] == 10
    assert config["seed"] == 5
    assert config["sample"]["paths"] == 3  # the file's own option stands over its table
    assert config["sample"]["max_tokens"] == 44  # --set stands over the file
    assert config["sample"]["top_k"] == 7
    assert config["train"]["steps"] == 2  # an option stands over the file
    assert config["train"]["learning_rate"] == 1e-3


def test_eval_one_model(cli: Cli, inputs: dict[str, Path], scripted: list[LearningSampler]) -> None:
    files = ["--questions", inputs["held-out"], "--gold", inputs["gold"]]
    words = ["eval", "--model", "x", *files, "--paths=8", "--pass-at=1", "--pass-at=8"]
    record = cli(*words, "--json").json()
    assert set(record) == {"evaluation", "seconds"}
    each = record["evaluation"]
    assert each["pass_at"]["1"] == pytest.approx(each["sample"])
    assert each["pass_at"]["8"] > each["pass_at"]["1"]
    assert sum(row["count"] for row in each["calibration"]["bins"]) == 40
    printed = cli(*words).out
    assert "pass@8" in printed
    assert "calibration" in printed
    assert "1..8" in cli(*words, "--pass-at=9").refusal()


def test_eval_of_a_run_uses_its_base_prompts_and_folder(
    cli: Cli, inputs: dict[str, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(model: object) -> LearningSampler:
        loaded.append(str(model))
        llm = LearningSampler()
        if str(model) != "base":
            from fastsi.train.checkpoint import load_checkpoint

            load_checkpoint(llm.model, Path(str(model)))
        return llm

    monkeypatch.setattr(api, "load_model", load)
    kept = {
        name: (run_folder / "evaluation" / name).read_bytes()
        for name in ("before.json", "after.json")
    }
    files = ["--questions", inputs["held-out"], "--gold", inputs["gold"], "--run", run_folder]
    record = cli(
        "eval", "--model", "base", *files, "--paths=6", "--max-tokens=256", "--json"
    ).json()
    assert loaded == ["base", str(run_folder / "round-1" / "checkpoint")]
    for name, content in kept.items():  # same model, same problems: read, not repeated
        assert (run_folder / "evaluation" / name).read_bytes() == content
        assert json.loads(content)["evaluation"] == record[name.removesuffix(".json")]
    said = cli("eval", "--model", "base", *files, "--paths=7").refusal()
    assert "evaluate.paths: 6 there, 7 here" in said
    other = cli("eval", "--model", "other", *files[:-1], run_folder)
    assert other.code == 2


def test_eval_refuses_a_model_that_is_not_the_base(
    cli: Cli, inputs: dict[str, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "load_model", lambda model: LearningSampler(seed=4))
    files = ["--questions", inputs["held-out"], "--gold", inputs["gold"], "--run", run_folder]
    said = cli("eval", "--model", "wrong", *files, "--paths=6", "--max-tokens=256").refusal()
    assert "model='wrong'" in said
    assert "fingerprint" in said
    said = cli("eval", "--model", "x", *files, "--after", "y").refusal()
    assert "--run and --after" in said


def test_demo_writes_disjoint_problems_and_goes_on(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's own files and folders; its rounds are those of improve."""
    asked: list[dict[str, object]] = []

    def improve(model: object, questions: object, out: Path, **rest: object) -> dict[str, object]:
        asked.append({"model": model, "questions": questions, "out": out, **rest})
        return {"folder": str(out), "checkpoint": "-", "rounds": [], "seconds": {}}

    monkeypatch.setattr(api, "improve", improve)
    monkeypatch.setattr("fastsi.cli.report.write_if_possible", lambda folder, note: None)
    monkeypatch.chdir(tmp_path)
    small = ["--questions=30", "--eval-problems=20", "--json"]
    assert cli("demo", *small).json()["folder"] == "runs/demo/run"
    assert cli("demo", *small, "--seed=4").json()["folder"] == "runs/demo-seed-4/run"
    data = Path("runs/demo/data")
    learned = (data / "improve.jsonl").read_text()
    held_out = (data / "evaluate.jsonl").read_text()
    assert "answer" not in learned
    texts = [[json.loads(line)["question"] for line in t.splitlines()] for t in (learned, held_out)]
    assert not set(texts[0]) & set(texts[1])
    assert learned != Path("runs/demo-seed-4/data/improve.jsonl").read_text()
    assert [len(each["questions"]) for each in asked] == [30, 30]  # type: ignore[arg-type]
    said = cli("demo", "--questions=31", "--eval-problems=20").refusal()
    assert "questions: 30 there, 31 here" in said
    assert (data / "improve.jsonl").read_text() == learned


def test_interrupt_ends_with_130(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vote_files, "vote_file", interrupted)
    ended = cli("vote", tmp_path / "paths.jsonl")
    assert ended.code == 130
    assert ended.out == ""
    assert ended.err.startswith("error: interrupted")
    assert ended.err.count("\n") == 1


def test_a_bug_keeps_its_traceback(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(vote_files, "vote_file", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli("vote", tmp_path / "paths.jsonl")


def test_the_command_as_a_process(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Standard output is one JSON object, and a refusal one line, whatever libraries print."""
    asked = ["sample", "--model", "builtin", "--limit", 2, "--n", 2, "--max-tokens", 8, "--json"]
    asked += ["--questions", inputs["questions"], "--out"]
    done = in_a_process(*asked, "paths.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["paths"] == 4
    assert (tmp_path / "paths.parquet").is_file()
    assert done.stderr == ""
    refused = in_a_process(*asked, "paths.parquet", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines() == [
        "error: paths.parquet: exists; give another name, nothing is overwritten"
    ]


def test_help_loads_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys, fastsi, fastsi.cli.__main__ as cli\n"
        "code = cli.main(['improve', '--help'])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'{code} {sorted(heavy)}' if code or heavy else 0)\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
