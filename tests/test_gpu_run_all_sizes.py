"""`benchmarks/gpu/run_all.py` at its real sizes, on a GPU without values.

The dry run goes through every section at toy sizes on a CPU. Here the branches that a GPU alone
takes run too: launches at real sizes, recording, models of real shapes. Nothing is computed, so
what compares results is left out. What is recorded must not wait for the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from fastsi.engine.core import Engine
from tests.support.fake_gpu import FakeGpu, installed, register_guard

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a real GPU"),
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
]


@pytest.fixture
def gpu(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    pytest.importorskip("triton")
    register_guard(tmp_path)
    with installed(monkeypatch) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "rows", "kernels"),
    [
        ("segment_attention", 9, {"attend_tiles", "finish_rows"}),
        ("sample_tokens", 9, {"_scan", "_finish"}),
        ("fused ops", 3, {"_rms_norm", "_rope_kv_write", "_act_mul"}),
        ("linear", 12, {"_linear", "product"}),
        ("match_stop", 1, {"match_stop"}),
        ("crossover", 10, {"attend_tiles", "finish_rows"}),
        ("decode 8B", 3, {"attend_tiles", "finish_rows", "product", "_scan"}),
        ("decode 135M", 3, {"attend_tiles", "finish_rows", "product", "_scan"}),
        ("deterministic", 2, {"attend_tiles", "finish_rows", "_linear", "_scan"}),
    ],
)
def test_a_section_runs_at_its_real_sizes(
    gpu: FakeGpu,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    rows: int,
    kernels: set[str],
) -> None:
    import _attention_gpu
    import _engine_sections
    import bench_sample_tokens
    from _harness import Rates
    from _measure import Context

    # Values that decide something, torch's own generation of random numbers, and other engines.
    monkeypatch.setattr(_attention_gpu, "_difference", lambda *_: 0.0)
    monkeypatch.setattr(_attention_gpu, "machine_rates", lambda dtype, *_, **__: rates(dtype))
    monkeypatch.setattr(
        bench_sample_tokens,
        "make_logits",
        lambda rows, vocab, dtype, device: torch.zeros(rows, vocab, dtype=dtype, device=device),
    )
    for left_out in ("_what_limits", "_end_to_end"):
        monkeypatch.setattr(_engine_sections, left_out, lambda *_: None)
    monkeypatch.setattr(_engine_sections, "_generate_step", lambda *_: 0.1)
    step = Engine.step

    def strict(self: Engine) -> Any:
        with gpu.strict():
            return step(self)

    monkeypatch.setattr(Engine, "step", strict)

    def rates(dtype: torch.dtype) -> Rates:
        return Rates(flops_per_s=7e14, bytes_per_s=3e12, dtype=str(dtype).removeprefix("torch."))

    context = Context(
        device=torch.device("cuda"),
        dry=False,
        dtype=torch.bfloat16,
        deadline=time.monotonic() + 3600,
        rates={dtype: rates(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)},
    )
    (section,) = (one for one in script.SECTIONS if one.name == name)
    section.run(context)
    assert len(context.rows) == rows, [row.measure for row in context.rows]
    assert not [row for row in context.rows if "FAILED" in row.value]
    assert kernels <= set(gpu.launches), gpu.launches
