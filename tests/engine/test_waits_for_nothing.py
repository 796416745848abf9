"""A step on a GPU never makes the host wait: seen on a GPU that has no values to wait for.

The tokens of a step are read when the next one has been launched, which is the only wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastsi.engine import LLM
from fastsi.engine.core import Engine
from fastsi.engine.graphs import DecodeGraphs
from fastsi.types import SamplingParams
from tests.engine.test_pipeline import PROMPTS, engine
from tests.support.fake_gpu import FakeGpu, Waits, installed, register_guard

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a real GPU"),
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
]


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("triton")
    register_guard(tmp_path_factory.mktemp("guard"))


@pytest.fixture
def gpu(guard: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A fake GPU on which steps of the engine must not wait."""
    step = Engine.step
    with installed(monkeypatch) as made:

        def strict(self: Engine) -> Any:
            with made.strict():
                return step(self)

        monkeypatch.setattr(Engine, "step", strict)
        yield made


def generate(llm: LLM, **params: Any) -> int:
    """Run some prompts; returns the number of steps."""
    before = llm.stats()["steps"]
    settings = {"n": 6, "temperature": 0.9, "max_tokens": 20, "seed": 1} | params
    outputs = llm.generate(PROMPTS, SamplingParams(**settings), use_tqdm=False)
    assert all(len(path.token_ids) for each in outputs for path in each.outputs)
    return llm.stats()["steps"] - before


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"graphs": "eager"},
        {"graphs": "off"},
        {"graphs": "off", "deterministic": True},
        {"graphs": "off", "pipeline": False},
        {"deterministic": True},
        {"sharing": "none"},
        {"kv_cache_tokens": 640},
        {"logprobs_mode": "full_logprobs"},
        {"logprobs_mode": "processed_logprobs"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_step_waits_for_nothing(gpu: FakeGpu, config: dict[str, Any], dtype: torch.dtype) -> None:
    options = {"max_batch_rows": 40} | config
    llm = engine(gpu.model("llama", 5, dtype), **options)
    for params in (
        {},
        {"top_p": 0.9, "top_k": 20, "min_p": 0.01},
        {"stop": ["\n\n", "Q:"], "stop_at_answer": True},
        {"min_tokens": 3, "logit_bias": {7: 1.0}},
        {"repetition_penalty": 1.2, "presence_penalty": 0.1},
        {"logprobs": 0},
        {"logprobs": 3, "top_k": 5, "stop": "Q:"},
    ):
        assert generate(llm, **params) >= 20
    model, graphs = llm.stats()["model"], options.get("graphs", "auto")
    assert model["forward"] == "fused"
    assert (model["steps_followed"] > 0) == (graphs != "off")
    assert (model["graphs_replayed"] > 0) == (graphs == "auto")
    if "kv_cache_tokens" in config:
        assert llm.stats()["preemptions"] > 0
    assert gpu.launches["match_stop"] > 0


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "gemma2", "gemma3", "gpt2"])
def test_nor_does_a_step_of_other_models(gpu: FakeGpu, family: str) -> None:
    llm = engine(gpu.model(family, 5, torch.bfloat16), max_batch_rows=40)
    generate(llm)
    fused = llm.stats()["model"]["forward"] == "fused"
    assert fused == (family in ("qwen2", "qwen3"))


@pytest.mark.parametrize("deterministic", [False, True])
def test_launches_of_a_step(gpu: FakeGpu, deterministic: bool) -> None:
    """Ten per layer, and what is around the layers: small models are bound by launches."""
    seen: Counter[tuple[tuple[str, int], ...]] = Counter()
    model = gpu.model("llama", 5, torch.bfloat16)
    llm = engine(model, graphs="eager", max_batch_rows=40, deterministic=deterministic)
    real = DecodeGraphs._run

    def run(self: DecodeGraphs, frame: Any) -> None:
        gpu.launches.clear()
        real(self, frame)
        seen[tuple(sorted(gpu.launches.items()))] += frame.key.draws != "behind"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecodeGraphs, "_run", run)
        generate(llm, max_tokens=60)
    layers, product = len(model.model.layers), "_linear" if deterministic else "product"
    want = {product: 4 * layers + 1, "_rms_norm": 2 * layers + 1}
    want |= dict.fromkeys(("_scan", "_finish", "_advance"), 1)
    want |= dict.fromkeys(("_rope_kv_write", "attend_tiles", "finish_rows"), layers)
    want |= {} if deterministic else {"_act_mul": layers}  # else in the epilogue of a product
    (found, _), *_ = seen.most_common(1)
    assert dict(found) == want


def test_the_fake_sees_what_waits(gpu: FakeGpu) -> None:
    device = torch.device("cuda")
    with gpu.strict():
        x, index = torch.zeros(4, 3, device=device), torch.zeros(2, dtype=torch.int64)
        assert x.is_cuda
        (x + 1).sum().add_(x[0, 0])
        pinned = torch.empty(2, dtype=torch.int64, pin_memory=True)
        sent = torch.empty(2, dtype=torch.int64, device=device).copy_(pinned, non_blocking=True)
        assert x[sent].shape == (2, 3)
        torch.empty(2, dtype=torch.int64, pin_memory=True)
        reused = torch.empty(2, dtype=torch.int64)  # where that one may have been
        for wait in (
            lambda: x[0, 0].item(),
            lambda: bool((x > 0).any()),
            lambda: x.tolist(),
            lambda: x.nonzero(),
            lambda: x[x > 0],
            lambda: x.cpu(),
            lambda: pinned.copy_(sent),
            lambda: x[index],
            lambda: x[[0, 1]],
            lambda: index.to(device),
            lambda: pinned.to(device),
            lambda: sent.copy_(index, non_blocking=True),
            lambda: sent.copy_(pinned),
            lambda: sent.copy_(pinned, non_blocking=False),
            lambda: sent.copy_(reused, non_blocking=True),
            lambda: torch.tensor([1, 2], device=device),
            lambda: torch.equal(x, x),
            lambda: x[0, :2].repeat_interleave(sent),
        ):
            with pytest.raises(Waits):
                wait()
        with gpu.strict(False):
            assert x[0, 0].item() == 1
            assert x.cpu().tolist() == [[0.0] * 3] * 4
