"""`benchmarks/gpu/run_all.py`: every section runs at toy sizes, and without a GPU it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

GPU = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"
SCRIPT = GPU / "run_all.py"


ATTENTION = "segment_attention, "
GOALS = (
    (ATTENTION, ">= 85% of the floor"),
    (f"{ATTENTION}6 rows, prefix 200, ragged suffixes", ">= 80% of the floor"),
    ("the same beside paged attention", ">= 5.0x"),
    ("sample_tokens, ", ">= 85% of the floor"),
    ("the same beside torch softmax and multinomial", ">= 5.0x"),
    ("decode Llama-3.1-8B", ">= 80% of the floor"),
    ("decode Llama-3.1-8B, 2 x 3 rows: beside sharing off", ">= 2.2x"),
    ("decode Llama-3.1-8B, 2 x 3 rows: beside transformers generate", ">= 10.0x"),
    ("decode Qwen2.5-1.5B", ">= 60% of the floor"),
    ("decode SmolLM2-135M", ">= 20% of the floor"),
    ("end to end", "<= 1.1x"),
    ("greedy tokens against transformers", "equal"),
    ("error of bfloat16 log-probs", "<= 2.0x"),
    ("deterministic=True", "bitwise equal"),
    ("its cost", "<= 1.2x"),
)
"""Every goal for a GPU, and the beginning of the measure that is judged by it."""


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)


def test_a_dry_run_goes_through_every_section() -> None:
    done = run("--dry-run", "--minutes", "25")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.rstrip().splitlines()[-1])
    assert found["dry_run"] is True
    values = {row["measure"]: row["value"] for row in found["rows"]}
    bad = {m: v for m, v in values.items() if "FAILED" in v or "out of time" in v}
    assert not bad, done.stderr[-3000:]
    for measure, wanted in GOALS:
        rows = [row for row in found["rows"] if row["measure"].startswith(measure)]
        assert any(wanted in row["goal"] for row in rows), (measure, wanted)
    assert {row["met"] for row in found["rows"]} == {None}, "toy sizes meet no goal and miss none"
    others = ("rms_norm", "linear", "match_stop", "grouping, ", "grouping wins", "head and draw")
    for begin in ("draw by rejection", "sample_tokens with top-k", *others):
        assert any(measure.startswith(begin) for measure in values), begin


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no CUDA GPU here" in done.stderr


def test_a_section_that_fails_or_is_slow_does_not_stop_the_rest(script: ModuleType) -> None:
    import time

    def fails(context: object) -> None:
        raise RuntimeError("no such kernel\nand more")

    def hangs(context: object) -> None:
        while True:
            time.sleep(0.01)

    context = script.Context(
        device=torch.device("cpu"),
        dry=False,
        dtype=torch.float32,
        deadline=time.monotonic() + 3600,
    )
    script.run_section(script.Section("one", fails, 600.0), context)
    script.run_section(script.Section("two", hangs, 0.2), context)
    context.deadline = 0.0
    script.run_section(script.Section("three", fails, 1.0), context)
    values = [row.value for row in context.rows]
    assert values[0] == "FAILED: RuntimeError: no such kernel"
    assert values[1].startswith("skipped: out of time after")
    assert values[2] == "skipped: out of time"
    assert [row.verdict for row in context.rows] == ["NOT MET", "", ""]


def test_shares_and_ratios_are_judged_against_their_goals(script: ModuleType) -> None:
    context = script.Context(
        device=torch.device("cpu"), dry=False, dtype=torch.float32, deadline=0.0
    )
    context.share("a", 2.0, 1.0, 0.5)
    context.share("b", 2.0, 1.0, 0.6)
    context.ratio("c", 1.2, 1.1, most=True)
    context.ratio("d", 5.0, 5.0)
    context.ratio("e", 5.0, None)
    assert [row.met for row in context.rows] == [True, False, False, True, None]
    page = script.markdown(context, "a GPU", "{}")
    assert "| b | 2 s, 50% of the floor | >= 60% of the floor | NOT MET |" in page


def test_outcomes_of_tests_are_counted(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _checks

    (tmp_path / "tests").mkdir()
    bodies = {"good": "assert True", "bad": "assert False", "long": "import time; time.sleep(600)"}
    for name, body in bodies.items():
        more = "def test_first(): pass\n" if name == "long" else ""
        text = f"{more}def test_{name}(): {body}\n"
        (tmp_path / "tests" / f"test_{name}.py").write_text(text)
    monkeypatch.setattr(_checks, "ROOT", tmp_path)
    context = script.Context(
        device=torch.device("cpu"), dry=False, dtype=torch.float32, deadline=0.0
    )
    _checks._pytest(context, "a", [["tests/test_good.py"]], 600.0)
    _checks._pytest(context, "b", [["tests/test_good.py"], ["tests/test_bad.py"]], 600.0)
    _checks._pytest(context, "c", [["tests/test_long.py"]], 3.0)
    assert [row.met for row in context.rows] == [True, False, None]
    assert context.rows[0].value == "1 passed"
    assert context.rows[1].value == "1 passed, 1 failed"
    assert context.rows[2].value.endswith("1 of 1 processes out of time")


def test_the_whole_run_fits_its_time(script: ModuleType) -> None:
    assert sum(section.seconds for section in script.SECTIONS[:8]) <= 60 * script.MINUTES + 20
    assert script.MINUTES < 9
    assert script.result_path("NVIDIA H100 80GB HBM3").name.startswith("gpu_nvidia-h100-80gb-hbm3_")


def test_sizes_are_those_of_the_published_models(script: ModuleType) -> None:
    import _floor
    import _shapes

    counts = ((_shapes.SMALL, 134.5e6), (_shapes.MIDDLE, 1543.7e6), (_shapes.LARGE, 8030e6))
    for shape, parameters in counts:
        config = shape.config(False)
        found = _floor.decoder_shape(config)
        tied = config.tie_word_embeddings
        total = found.stored_weights + found.head_weights * (1 if tied else 2)
        assert total == pytest.approx(parameters, rel=2e-3)
