"""Settings every test shares: the installed package is tested, offline, quick checks first."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # before torch: idle threads of one worker must not spin on the cores of the other
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

ROOT = Path(__file__).resolve().parents[1]

# `python -m pytest` in the root puts the root on the path, where the folder fastsi/ (without its
# compiled module) would hide the installed package. Installed in place, both are the same files.
_elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
if any(importlib.metadata.distributions(name="fastsi", path=_elsewhere)):
    sys.path[:] = _elsewhere

os.environ["PYTHONSAFEPATH"] = "1"  # the same for the interpreters that tests start
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not torch.cuda.is_available():  # before any kernel is made
    os.environ["TRITON_INTERPRET"] = "1"

# Tests must not fail because the machine is busy.
settings.register_profile(
    "fastsi", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fastsi")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run checks marked slow after all others, in their usual order.

    Where several workers share the files out, files with such checks come first, so that no
    worker is left alone with them at the end.
    """
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None) != WORKER)


def pytest_runtest_setup() -> None:
    """Start torch's own generator anew: what a test draws must not depend on those before it."""
    torch.manual_seed(0)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/gpu/run_all.py, with the folders that it imports from on the path."""
    benchmarks = ROOT / "benchmarks"
    for name in ("ops", "engine", "", "gpu"):
        monkeypatch.syspath_prepend(str(benchmarks / name))
    import run_all

    return run_all
