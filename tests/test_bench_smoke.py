"""Every benchmark runs with --quick and ends with the JSON line that scripts rely on."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.tiny_models import FAMILIES, make_model

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("*/bench_*.py"))


def run(script: Path, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1800)


def check_contract(line: str) -> dict[str, Any]:
    """Parse a benchmark's last line and check the keys scripts rely on."""
    found: dict[str, Any] = json.loads(line)
    assert {"workload", "providers", "ratios", "floor", "versions"} <= found.keys()
    assert found["workload"]
    assert len(found["providers"]) >= 2
    for provider in found["providers"].values():
        assert provider["seconds"] > 0
        assert provider["tokens_per_s"] is None or provider["tokens_per_s"] > 0
    assert found["ratios"].keys() == found["providers"].keys()
    assert 1.0 in found["ratios"].values()
    assert {"fastsi", "torch", "python"} <= found["versions"].keys()
    return found


def test_there_are_benchmarks_of_ops_engine_and_rounds() -> None:
    assert {path.parent.name for path in SCRIPTS} >= {"ops", "engine", "train"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_benchmark_runs_and_keeps_the_contract(script: Path, tmp_path: Path) -> None:
    done = run(script, "--quick", "--json-out", str(tmp_path / "out.jsonl"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    last = done.stdout.rstrip().splitlines()[-1]
    check_contract(last)
    assert (tmp_path / "out.jsonl").read_text().splitlines()[-1] == last


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_attention_on_a_gpu_runs_in_the_interpreter(tmp_path: Path) -> None:
    script = BENCHMARKS / "ops" / "bench_segment_attention.py"
    done = run(script, "--device", "interpreter", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = check_contract(done.stdout.rstrip().splitlines()[-1])
    assert [case["suffix"] > 0 for case in found["cases"]] == [False, True]
    assert all(case["gain"] > 0 for case in found["crossover"])
    assert len(found["tuned"]) == 2


def exit_of(script: Path, *options: str, patch: pytest.MonkeyPatch) -> object:
    """What a benchmark that stops before its work exits with; run here, since that is quick."""
    patch.setattr(sys, "argv", [str(script), *options])
    patch.setattr(sys, "path", [str(script.parent), *sys.path])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    return stop.value.code


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_benchmark_has_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(script, "--help", patch=monkeypatch) == 0
    assert "--quick" in capsys.readouterr().out


SAMPLE_PATHS = BENCHMARKS / "engine" / "bench_sample_paths.py"


def test_sample_paths_reports_every_way_of_sharing_and_a_floor(tmp_path: Path) -> None:
    done = run(SAMPLE_PATHS, "--quick", "--model", "tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = check_contract(done.stdout.rstrip().splitlines()[-1])
    assert list(found["providers"]) == [
        "transformers",
        "fastsi-no-sharing",
        "fastsi-shared-kv",
        "fastsi",
        "fastsi-no-attention",
    ]
    assert found["baseline"] == "transformers"
    assert found["floor"]["seconds"] > 0
    assert found["details"]["check"]["sampled_paths_equal_across_sharing"] == 1.0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--paths", "0"], "--paths=0"),
        (["--temperature", "0"], "--temperature=0"),
        (["--new-tokens", "4000", "--question-tokens", "200"], "context of 4096"),
        (["--repeats", "0"], "--repeats=0"),
    ],
)
def test_sample_paths_refuses_bad_sizes(
    options: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = exit_of(SAMPLE_PATHS, "--model", "tiny", *options, patch=monkeypatch)
    assert isinstance(said, str)
    assert complaint in said


@pytest.fixture
def floor(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(BENCHMARKS / "engine")
    import _floor

    return _floor


@pytest.mark.parametrize("family", FAMILIES)
def test_floor_counts_what_a_forward_pass_multiplies(floor: ModuleType, family: str) -> None:
    """Prefill of one prompt: torch counts the matrix products of the same model.

    torch counts all pairs of positions, so attention is compared with the full square; the two
    counts then differ by the product that makes rotary angles, which the floor leaves out.
    """
    tokens = 24
    model = make_model(family, 1)
    model.set_attn_implementation("eager")  # the counter does not know the fused one on a CPU
    shape = floor.decoder_shape(model.config)
    ids = torch.randint(3, model.config.vocab_size, (1, tokens))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids, logits_to_keep=1)
    pairs = 4.0 * shape.heads * shape.head_dim * tokens**2 * len(shape.windows)
    counted = 2 * shape.layer_weights * tokens + 2 * shape.head_weights + pairs
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_floor_grows_with_work_and_shrinks_with_sharing(floor: ModuleType) -> None:
    config = make_model("mistral", 1).config
    harness = sys.modules["_harness"]
    rates = harness.Rates(flops_per_s=1e9, bytes_per_s=1e9, dtype="float32")

    def seconds(**sizes: int) -> float:
        base = {"prefix_tokens": 40, "question_tokens": 5, "questions": 2, "paths": 4}
        work = floor.PathsWorkload(**(base | {"new_tokens": 8} | sizes))
        result: float = floor.decode_floor(config, work, rates, dtype=torch.float32).seconds
        return result

    for size in ("prefix_tokens", "question_tokens", "questions", "paths", "new_tokens"):
        assert seconds(**{size: 64}) > seconds(**{size: 8})
    # One question with eight paths shares more than eight questions with one.
    assert seconds(questions=1, paths=8) < seconds(questions=8, paths=1)


def test_measure_takes_turns_and_reports_medians(floor: ModuleType) -> None:
    harness = sys.modules["_harness"]
    order: list[str] = []
    timings = harness.measure(
        {name: lambda name=name: order.append(name) for name in "ab"}, repeats=2, log=False
    )
    assert order == list("ab" + "ba" + "ab")
    assert all(len(timing.samples) == 2 for timing in timings.values())
    assert harness.Timing(samples=[3.0, 1.0, 2.0]).seconds == 2.0
