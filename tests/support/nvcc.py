"""Compiling a file of csrc/cuda, on a machine with nvcc and without a GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INCLUDES = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")


def kernel_registers(source: str, arch: str, folder: Path) -> list[int]:
    """Registers of each kernel of csrc/cuda/SOURCE; none may use the stack or spill."""
    command = ["nvcc", "-std=c++17", "-O3", f"-arch={arch}", *INCLUDES, "-Xptxas", "-v"]
    command += ["-c", str(ROOT / "csrc/cuda" / source), "-o", str(folder / "kernel.o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", report)
    assert frames == [("0", "0", "0")] * len(registers), report
    return registers
