"""Bad input: one line that names the place and the value, exit code 2, nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.scripted import LearningSampler

GOOD = '{"id": "a", "question": "Add 1 and 2."}\n'

BAD_QUESTIONS = [
    pytest.param('{"id": "b", "question": ', ["malformed JSON"], id="malformed"),
    pytest.param('{"id": "a", "question": "?"}', ["'id'", "duplicate", "'a'"], id="duplicate"),
    pytest.param('{"id": "b", "question": "  "}', ["'question'", "empty", "'  '"], id="empty"),
    pytest.param('{"id": "b", "answer": "3"}', ["'answer'", "gold", "'3'"], id="gold"),
    pytest.param('{"id": "b", "text": "?"}', ["'text'", "unknown"], id="unknown field"),
]


@pytest.mark.parametrize("command", ["sample", "improve", "eval"])
@pytest.mark.parametrize(("line", "words"), BAD_QUESTIONS)
def test_bad_questions(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, command: str, line: str, words: list[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(GOOD + line + "\n")
    out = tmp_path / "out"
    more = ["--gold", inputs["gold"]] if command == "eval" else ["--out", out]
    said = cli(command, "--model", "builtin", "--questions", path, *more).refusal()
    for word in [f"{path}:2: ", *words]:
        assert word in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"answer": "3"}', [":2: ", "field 'id'", "missing"]),
        ('{"id": "h1"}', [":2: ", "field 'answer'", "missing"]),
        ('{"id": "h0", "answer": "3"}', [":2: ", "duplicate", "'h0'"]),
        ('{"id": "h1", "answer": "?"}', [":2: ", "field 'answer'", "'?'"]),
        ('{"id": "h1", "answer": "48"}', ["no gold answer for 38 of 40", "'h2'"]),
    ],
)
def test_bad_gold(
    cli: Cli, inputs: dict[str, Path], line: str, words: list[str], tmp_path: Path
) -> None:
    gold = tmp_path / "bad-gold.jsonl"
    gold.write_text('{"id": "h0", "answer": "42"}\n' + line + "\n")
    files = ["--questions", inputs["held-out"], "--gold", gold]
    said = cli("eval", "--model", "builtin", *files).refusal()
    for word in [str(gold), *words]:
        assert word in said
    out = tmp_path / "run"
    more = ["--questions", inputs["questions"], "--eval-questions", inputs["held-out"]]
    assert said == cli("improve", "--model", "x", *more, "--gold", gold, "--out", out).refusal()
    assert not out.exists()


def test_missing_files(cli: Cli, tmp_path: Path) -> None:
    absent = tmp_path / "absent.jsonl"
    said = cli("sample", "--model", "builtin", "--questions", absent, "--out", "x").refusal()
    assert said.startswith(f"{absent}: ")
    assert "No such file" in said
    assert str(absent) in cli("vote", absent).refusal()
    assert "not a run folder" in cli("report", tmp_path).refusal()
    assert "no such run" not in cli("report", tmp_path / "absent").refusal()


@pytest.mark.parametrize("command", ["sample", "improve", "eval"])
def test_prompt_longer_than_the_context(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, tiny_model: Path, command: str
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(f'{GOOD}{{"id": "h1", "question": "{"Add 1. " * 100}"}}\n')
    out = tmp_path / "out"
    more: list[object] = ["--out", out]
    if command == "eval":
        gold = tmp_path / "gold.jsonl"
        gold.write_text('{"id": "a", "answer": "3"}\n{"id": "h1", "answer": "100"}\n')
        more = ["--gold", gold]
    said = cli(command, "--model", tiny_model, "--questions", path, *more).refusal()
    assert "question 'h1'" in said
    assert "context holds 512" in said
    assert not out.is_file()
    assert not (out / "round-1").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--n", "0"], ["n=0", ">= 1"]),
        (["--paths", "-3"], ["n=-3"]),
        (["--temperature", "-0.5"], ["temperature=-0.5", ">= 0"]),
        (["--temperature", "warm"], ["--temperature", "'warm'"]),
        (["--max-tokens", "0"], ["max_tokens=0"]),
        (["--set", "sampling.top_p=1.5"], ["top_p=1.5", "(0, 1]"]),
        (["--set", "sampling.tempreature=1"], ["'tempreature'", "did you mean 'temperature'"]),
        (["--set", "samplign.n=1"], ["'samplign'", "did you mean 'sampling'"]),
        (["--set", "sampling.n"], ["'sampling.n'", "TABLE.NAME=VALUE"]),
        (["--set", "prompt.styel='chat'"], ["'styel'", "did you mean 'style'"]),
        (["--set", "prompt.style=loud"], ["style='loud'"]),
        (["--tempreature", "1"], ["--tempreature"]),
        (["--limit=0"], ["--limit", "'0'"]),
    ],
)
def test_bad_sampling_settings(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    out = tmp_path / "paths.parquet"
    files = ["--questions", inputs["questions"], "--out", out]
    said = cli("sample", "--model", "builtin", *files, *arguments).refusal()
    for word in words:
        assert word in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--paths", "0"], ["paths=0"]),
        (["--temperature", "-1"], ["temperature=-1"]),
        (["--rounds", "0"], ["rounds=0", ">= 1"]),
        (["--set", "train.stpes=3"], ["'stpes'", "did you mean 'steps'"]),
        (["--set", "evaluate.path=3"], ["'path'", "did you mean 'paths'"]),
        (["--set", "select.min_share=2"], ["min_share=2"]),
        (["--eval-questions", "x.jsonl"], ["--eval-questions and --gold go together"]),
    ],
)
def test_bad_run_settings(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    out = tmp_path / "run"
    files = ["--questions", inputs["questions"], "--out", out]
    said = cli("improve", "--model", "builtin", *files, *arguments).refusal()
    for word in words:
        assert word in said
    assert not out.exists()


def test_missing_model_folder(cli: Cli, inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "no" / "model"
    out = tmp_path / "run"
    files = ["--questions", inputs["questions"], "--out", out]
    for command in ("sample", "improve"):
        assert str(folder) in cli(command, "--model", folder, *files).refusal()
        assert not out.exists()


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_corrupt_safetensors(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, tiny_model: Path, damage: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1000] if damage == "cut" else b"\xff" * 64 + content[64:])
    out = tmp_path / "paths.parquet"
    files = ["--questions", inputs["questions"], "--out", out]
    assert str(folder) in cli("sample", "--model", folder, *files).refusal()
    assert not out.exists()


def test_output_folder_of_another_config(
    cli: Cli,
    inputs: dict[str, Path],
    run_folder: Path,
    scripted: list[LearningSampler],
) -> None:
    files = ["--questions", inputs["questions"], "--out", run_folder]
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    said = cli("improve", "--model", "x", *files, "--paths", "5", "--steps", "4").refusal()
    assert str(run_folder) in said
    assert "sample.paths: 6 there, 5 here" in said
    assert before == {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    assert scripted[-1].calls == []


def test_a_folder_that_is_no_run_is_left_alone(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, scripted: list[LearningSampler]
) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter-1.txt").write_text("It was late.")
    files = ["--questions", inputs["questions"], "--out", folder]
    said = cli("improve", "--model", "x", *files).refusal()
    assert "chapter-1.txt" in said
    assert [path.name for path in folder.iterdir()] == ["chapter-1.txt"]


def test_nothing_is_overwritten(cli: Cli, inputs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "old.parquet"
    out.write_text("precious")
    files = ["--questions", inputs["questions"], "--out", out]
    said = cli("sample", "--model", "builtin", *files).refusal()
    assert said.startswith(f"{out}: exists")
    paths = tmp_path / "paths.jsonl"
    paths.write_text('{"question_id": "a", "text": "The answer is 3."}\n')
    assert cli("vote", paths, "--out", out).refusal() == said
    assert out.read_text() == "precious"


def test_disk_full(
    cli: Cli, inputs: dict[str, Path], small_disk: Path, scripted: list[LearningSampler]
) -> None:
    files = ["--model", "x", "--questions", inputs["questions"]]
    for command in ("sample", "improve"):
        out = small_disk / command
        said = cli(command, *files, "--paths", "400", "--out", out).refusal()
        assert "No space left on device" in said
        assert str(out) in said
        assert not list(small_disk.rglob("*.parquet"))
        assert not list(small_disk.rglob("*.partial"))


def test_a_folder_without_permission(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, scripted: list[LearningSampler]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    out = tmp_path / "file" / "run"
    asked = ["sample", "--model", "x", "--questions", inputs["questions"], "--out"]
    assert str(out) in cli(*asked, out).refusal()
    assert scripted == []  # refused before the model was loaded
    said = cli(
        "improve", "--model", "x", "--questions", inputs["questions"], "--out", out
    ).refusal()
    assert str(out) in said
    assert "Not a directory" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("tempreature = 1\n", ["unknown key 'tempreature'", "did you mean 'temperature'"]),
        ("[samplign]\nn = 1\n", ["unknown key 'samplign'", "did you mean 'sampling'"]),
        ("[sampling]\ntop_kk = 1\n", ["'top_kk'", "did you mean 'top_k'"]),
        ("[sampling]\nn = 0\n", ["n=0"]),
        ("sampling = 3\n", ["sampling=3", "must be a table"]),
        ("[limit]\nx = 3\n", ["limit=", "not a table"]),
        ("limit = 'many'\n", ["--limit", "'many'"]),
        ("n = = 3\n", ["not TOML", "line 1"]),
    ],
)
def test_bad_config_file(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, content: str, words: list[str]
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(content)
    files = ["--questions", inputs["questions"], "--out", tmp_path / "x.parquet"]
    said = cli("sample", "--model", "builtin", *files, "--config", path).refusal()
    for word in [f"{path}: ", *words]:
        assert word in said


def test_bad_environment_variable(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSI_ISA", "mmx")
    said = cli("env").refusal()
    assert "FASTSI_ISA='mmx'" in said
    assert "avx2" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question_id": "a"}', ["field 'text'", "missing"]),
        ('{"question_id": "a", "text": 7}', ["field 'text'", "string", "7"]),
        ('{"text": "The answer is 3."}', ["field 'question_id'", "missing"]),
    ],
)
def test_bad_paths_file(cli: Cli, tmp_path: Path, line: str, words: list[str]) -> None:
    path = tmp_path / "paths.jsonl"
    path.write_text('{"question_id": "a", "text": "The answer is 3."}\n' + line + "\n")
    said = cli("vote", path).refusal()
    for word in [f"{path}:2: ", *words]:
        assert word in said


def test_bad_extractor_and_damaged_parquet(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "paths.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    assert str(path) in cli("vote", path).refusal()
    said = cli("vote", path, "--extractor", "boxde").refusal()
    assert "did you mean 'boxed'" in said


def test_no_command_and_unknown_command(cli: Cli) -> None:
    assert "'smaple'" in cli("smaple").refusal()
    ended = cli()
    assert ended.code == 2
    assert "improve" in ended.out + ended.err
    assert "error" not in ended.err
