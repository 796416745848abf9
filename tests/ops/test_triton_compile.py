"""Triton kernels become machine code for sm_80 and sm_90: no spills, and shared memory suffices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from fastsi.ops._registry import TABLE
from fastsi.ops._triton_variants import SHARED_BYTES

OPS = [row.op for row in TABLE if row.backend == "triton"]


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("capability", sorted(SHARED_BYTES))
@pytest.mark.parametrize("op", OPS)
def test_compiles_without_spills(op: str, capability: int) -> None:
    # In a process of its own: here kernels may be interpreted.
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "fastsi.ops._triton_variants", op]
    command += ["--capability", str(capability)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found
    for name, used in found.items():
        assert used["spilled_bytes"] == 0, (name, used)
        assert used["shared_bytes"] <= SHARED_BYTES[capability], (name, used)
