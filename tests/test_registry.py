"""The dispatch table: choices, refusals with reasons, laziness, and completeness."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastsi import _ext
from fastsi.errors import BackendUnavailable, ConfigError
from fastsi.ops import _registry, explain, merge_states
from fastsi.ops._registry import FUNCTIONS, OPS, TABLE, Facts, Row

HERE = Path(__file__).parent
CPU = Facts("cpu", torch.float32)


@pytest.fixture(autouse=True)
def forget_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions are cached for the process; these tests change what they depend on."""
    _registry._chosen.cache_clear()
    _registry._warn_slow.cache_clear()
    monkeypatch.delenv("FASTSI_BACKEND", raising=False)


def module_of(facts: Facts, backend: str = "auto", op: str = "merge_states") -> str:
    return _registry.choose(op, facts, backend).__module__.rpartition(".")[2]


def test_auto_takes_the_first_backend_that_can() -> None:
    assert module_of(CPU) == "_cpu"
    assert module_of(Facts("cpu", torch.float32, grad=True)) == "reference"
    assert module_of(Facts("meta", torch.float32)) == "reference"


def test_explicit_names_work_or_raise_with_every_reason() -> None:
    assert module_of(CPU, "reference") == "reference"
    assert module_of(CPU, "cpu") == "_cpu"
    with pytest.raises(BackendUnavailable) as caught:
        _registry.choose("merge_states", Facts("meta", torch.float32, grad=True), "cpu")
    message = str(caught.value)
    assert "backend 'cpu' cannot run" in message
    assert "cpu: runs on cpu, the tensors are on meta" in message
    assert "triton: runs on cuda, cpu, the tensors are on meta" in message
    assert "cuda: merge_states has no cuda backend" in message
    assert "reference: can run" in message
    with pytest.raises(BackendUnavailable, match="a gradient is asked for"):
        _registry.choose("merge_states", Facts("cpu", torch.float32, grad=True), "cpu")
    with pytest.raises(BackendUnavailable, match="not int32"):
        _registry.choose("merge_states", Facts("cpu", torch.int32))


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown backend 'tritn'; did you mean 'triton'"):
        _registry.choose("merge_states", CPU, "tritn")
    with pytest.raises(ConfigError, match="unknown op 'merge_state'; did you mean 'merge_states'"):
        explain("merge_state")


def test_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSI_BACKEND", "reference")
    assert module_of(CPU) == "reference"
    assert module_of(CPU, "cpu") == "_cpu"  # an explicit argument is more specific
    monkeypatch.setenv("FASTSI_BACKEND", "cuda")
    with pytest.raises(BackendUnavailable, match="backend 'cuda' cannot run"):
        merge_states(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1))
    monkeypatch.setenv("FASTSI_BACKEND", "gpu")
    with pytest.raises(ConfigError, match="FASTSI_BACKEND='gpu': must be one of"):
        merge_states(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1))


def test_a_missing_extension_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ext, "load", lambda name: (None, f"fastsi.{name} is not importable: x"))
    assert module_of(CPU) == "reference"
    with pytest.raises(BackendUnavailable, match=r"cpu: fastsi\._C is not importable"):
        _registry.choose("merge_states", CPU, "cpu")


def test_reference_on_a_gpu_warns_once() -> None:
    with pytest.warns(RuntimeWarning, match="no CUDA backend"):
        _registry.choose("kv_write", Facts("cuda", torch.float32, grad=True))
    _registry.choose(
        "kv_write", Facts("cuda", torch.float16, grad=True)
    )  # warnings are errors here


def test_explain_names_the_choice_and_the_refusals() -> None:
    text = explain("segment_attention", torch.zeros(1, dtype=torch.bfloat16))
    assert text.splitlines()[0] == "segment_attention on cpu bfloat16 (asked: auto): uses cpu"
    assert "cuda: segment_attention has no cuda backend" in text
    assert "uses reference" in explain("kv_write", torch.zeros(1, requires_grad=True))
    assert "cannot run" in explain("kv_write", torch.zeros(1), backend="cuda")


def test_gradients_are_only_asked_for_where_they_are_recorded() -> None:
    tensor = torch.zeros(1, requires_grad=True)
    assert _registry.facts(torch.zeros(1), tensor).grad
    with torch.no_grad():
        assert not _registry.facts(tensor).grad


def test_decisions_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _registry.choose("merge_states", CPU)
    monkeypatch.setattr(Row, "refusal", lambda self, facts: pytest.fail("decided again"))
    assert _registry.choose("merge_states", CPU) is first


def test_backends_are_imported_when_first_chosen() -> None:
    script = (
        "import sys, fastsi.ops as ops, torch\n"
        "loaded = [m for m in sys.modules if m.startswith('fastsi') and '_C' in m]\n"
        "ours = [m for m in sys.modules if m.startswith('fastsi.ops')]\n"
        "loaded += [m for m in ours if m.endswith(('._cpu', '._triton', '._cuda'))]\n"
        "assert not loaded, loaded\n"
        "assert 'triton' not in sys.modules\n"
        "ops.merge_states(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1))\n"
        "assert 'fastsi.ops.merge_states._cpu' in sys.modules\n"
        "assert 'fastsi.ops.kv_write._cpu' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=900)


def test_every_op_has_a_short_reference_and_tests_of_every_backend() -> None:
    for op in OPS:
        rows = [row for row in TABLE if row.op == op]
        assert [row.backend for row in rows][-1] == "reference", f"{op} falls back to nothing"
        test = HERE / "ops" / f"test_{op}.py"
        assert f'runners("{op}")' in test.read_text(), f"{test} does not run every backend"
        assert (HERE.parent / "benchmarks" / "ops" / f"bench_{op}.py").is_file()
        for row in rows:
            __import__(row.module)
            for function in FUNCTIONS.get(op, (op,)):
                assert callable(getattr(sys.modules[row.module], function))


def test_rows_are_unique_and_known() -> None:
    pairs = [(row.op, row.backend) for row in TABLE]
    assert len(set(pairs)) == len(pairs)
    assert {op for op, _ in pairs} == set(OPS)
    assert {backend for _, backend in pairs} <= set(_registry.BACKENDS)
