"""Sections of `run_all.py` that prove results before anything is timed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from _measure import Context

ROOT = Path(__file__).resolve().parents[2]
_CUDA_TESTS = ("tests/ops/test_vote_answers.py", "tests/ops/test_match_stop.py")
"""Their `cuda` cases run the kernels of csrc/cuda."""
_ON_DEVICE = "(triton or cuda or gpu or device or graphs or pipeline) and not compile"


def tests_on_device(context: Context) -> None:
    """The tests of ops and engine whose code runs on the device; the others are a CPU's.

    Several processes share the files, since most of the time is the compiler's.
    """
    name = "tests of ops and engine on the device"
    if context.dry:
        _pytest(context, name, [["tests/ops/test_merge_states.py", "-k", "reference"]], 600.0)
        return
    files = [str(p) for folder in ("ops", "engine") for p in ROOT.glob(f"tests/{folder}/test_*.py")]
    count = max(1, min(8, (os.cpu_count() or 2) // 2))
    shares = [sorted(files)[first::count] for first in range(count)]
    chosen = ["-m", "not slow", "-k", _ON_DEVICE]
    _pytest(context, name, [[*share, *chosen] for share in shares if share], 150.0)


def sanitizer(context: Context) -> None:
    """compute-sanitizer over the CUDA kernels: bad addresses, then races."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for kind in ("memcheck", "racecheck"):
        name = f"compute-sanitizer {kind} of the CUDA kernels"
        if not Path(tool).is_file():
            context.add(name, "skipped: no compute-sanitizer here", "no errors")
            continue
        before = [tool, "--tool", kind, "--error-exitcode", "9"]
        _pytest(context, name, [[*_CUDA_TESTS, "-k", "cuda"]], 38.0, before)


def _pytest(
    context: Context,
    name: str,
    runs: list[list[str]],
    seconds: float,
    before: Sequence[str] = (),
) -> None:
    """Run pytest in processes of their own and add one row for what they say."""
    if not (ROOT / "tests").is_dir():
        context.add(name, "skipped: the tests are not beside this script", "pass")
        return
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        pairs = []
        for what in runs:
            output = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            pairs.append((_start([*before, sys.executable, "-m", "pytest", *what], output), output))
        try:
            for run, _ in pairs:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(timeout=max(0.1, end - time.monotonic()))
        finally:
            for run, _ in pairs:
                run.kill()
                run.wait()
        for _, output in pairs:
            output.seek(0)
        said = [output.read() for _, output in pairs]
    codes = [run.returncode for run, _ in pairs]
    counts = Counter[str]()
    for text, code in zip(said, codes, strict=True):
        counts += _counts(text, ended=code >= 0)
    late = sum(code < 0 for code in codes)
    shown = ", ".join(f"{number} {what}" for what, number in counts.items()) or f"exit {codes}"
    failed = counts["failed"] + counts["errors"] > 0 or any(
        c not in (0, 5) for c in codes if c >= 0
    )
    context.add(
        name,
        f"{shown}{f'; {late} of {len(codes)} processes out of time' if late else ''}",
        "pass",
        False if failed else None if late else True,
        tail=[text[-2000:] for text, code in zip(said, codes, strict=True) if code not in (0, 5)],
    )


def _start(command: list[str], output: IO[str]) -> subprocess.Popen[str]:
    options = ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=env,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _counts(said: str, *, ended: bool) -> Counter[str]:
    """Tests by outcome, from the last line or, of a process that was killed, from its dots."""
    found: Counter[str] = Counter()
    if ended:
        last = (said.strip().splitlines() or [""])[-1]
        for number, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", last):
            found["errors" if what.startswith("error") else what] += int(number)
        return found
    marks = "".join(re.findall(r"^[.FEsx]+", said, re.M))
    found["passed"], found["failed"] = marks.count("."), marks.count("F") + marks.count("E")
    return found
