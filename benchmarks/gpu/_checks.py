"""Sections of `run_all.py` that prove results before anything is timed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _measure import Context

ROOT = Path(__file__).resolve().parents[2]
_CUDA_TESTS = ("tests/ops/test_vote_answers.py", "tests/ops/test_match_stop.py")
"""Their `cuda` cases run the kernels of csrc/cuda."""
_ON_DEVICE = "(triton or cuda or gpu or device or graphs or pipeline) and not compile"


def tests_on_device(context: Context) -> None:
    """The tests of ops and engine whose code runs on the device; the others are a CPU's."""
    what = ["tests/ops", "tests/engine", "-m", "not slow", "-k", _ON_DEVICE]
    if context.dry:
        what = ["tests/ops/test_merge_states.py", "-k", "reference"]
    _pytest(context, "tests of ops and engine on the device", what, 150.0)


def sanitizer(context: Context) -> None:
    """compute-sanitizer over the CUDA kernels: bad addresses, then races."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for kind in ("memcheck", "racecheck"):
        name = f"compute-sanitizer {kind} of the CUDA kernels"
        if not Path(tool).is_file():
            context.add(name, "skipped: no compute-sanitizer here", "no errors")
            continue
        before = [tool, "--tool", kind, "--error-exitcode", "9"]
        _pytest(context, name, [*_CUDA_TESTS, "-k", "cuda"], 38.0, before)


def _pytest(
    context: Context, name: str, what: list[str], seconds: float, before: list[str] | None = None
) -> None:
    """Run pytest in a process of its own and add a row for what it says."""
    if not (ROOT / "tests").is_dir():
        context.add(name, "skipped: the tests are not beside this script", "pass")
        return
    options = ["-q", "--no-header", "--tb=line", "-p", "no:cacheprovider"]
    command = [*(before or []), sys.executable, "-m", "pytest", *what, *options]
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        run = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        try:
            run.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            run.kill()
            run.wait()
        output.seek(0)
        said = output.read()
    found = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", said)
    if run.returncode < 0:  # killed: count the characters of progress
        marks = "".join(re.findall(r"^[.FEsx]+", said, re.M))
        context.add(
            name,
            f"out of time: {marks.count('.')} passed, {marks.count('F') + marks.count('E')} failed",
            "pass",
            False if set("FE") & set(marks) else None,
            tail=said[-3000:],
        )
        return
    shown = ", ".join(found) or f"exit code {run.returncode}"
    context.add(name, shown, "pass", run.returncode == 0, tail=said[-3000:])
