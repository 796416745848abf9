"""How a pass is made: fused or with swapped modules, over packed copies that follow the weights."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastsi.api import builtin_model
from fastsi.data.stories import make_problems
from fastsi.engine import LLM
from fastsi.engine.model_runner import ModelRunner
from fastsi.errors import ConfigError
from fastsi.types import SamplingParams
from tests.ops.support import running
from tests.support.compare import assert_same_paths, greedy_reference
from tests.support.tiny_models import FAMILIES, make_model, sample_prompts

FUSED = {"llama", "qwen2", "qwen3", "mistral"}
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = [[5, 6, 7, 8, 9], [11, 12, 13]]


def greedy(llm: LLM) -> list[list[int]]:
    return [r.outputs[0].token_ids for r in llm.generate(PROMPTS, GREEDY, use_tqdm=False)]


def logprobs(llm: LLM) -> list[float | None]:
    """Of the greedy paths, nats."""
    paths = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    return [r.outputs[0].cumulative_logprob for r in paths]


def assert_as_transformers(llm: LLM, model: Any) -> None:
    expected = greedy_reference(model, PROMPTS, max_tokens=12)
    assert_same_paths(greedy(llm), [one.tokens for one in expected], "greedy")


def linears(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("family", FAMILIES)
def test_which_forward_is_used_and_why(family: str) -> None:
    model = make_model(family, 0)
    found = LLM(model, kv_cache_tokens=1024).stats()["model"]
    assert found["forward"] == ("fused" if family in FUSED else "modules"), found["reason"]
    assert found["packed_linears"] > 0
    assert found["reason"]
    assert found["parameter_bytes"] == sum(p.nbytes for p in set(model.parameters()))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_pass_runs_on_every_backend(
    family: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference gives results in other memory layouts than the kernels do."""
    model = make_model(family, 6)
    monkeypatch.setenv("FASTSI_BACKEND", backend)
    assert_as_transformers(LLM(model, kv_cache_tokens=1024), model)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_packed_copies_follow_the_instruction_set(isa: str) -> None:
    """Layouts differ between instruction sets: a change in mid-life packs again."""
    model = make_model("llama", 7)
    llm = LLM(model, kv_cache_tokens=1024)
    expected = greedy(llm)
    with running(f"cpu-{isa}"):
        assert greedy(llm) == expected
    assert greedy(llm) == expected


def test_packed_bytes_are_about_those_of_the_linears() -> None:
    model = make_model("llama", 0)
    own = sum(m.weight.nbytes for m in linears(model))  # type: ignore[union-attr,operator]
    found = []
    for quantization in (None, "bf16", "int8"):
        llm = LLM(model, kv_cache_tokens=1024, quantization=quantization)  # type: ignore[arg-type]
        greedy(llm)
        found.append(llm.stats()["model"]["packed_bytes"])
    assert found[0] >= own
    assert found[0] == 2 * found[1]
    assert found[1] > found[2]


def test_other_dtypes_run_as_they_are() -> None:
    found = LLM(make_model("llama", 0, dtype=torch.float64)).stats()["model"]
    assert found["forward"] == "modules"
    assert found["packed_linears"] == 0
    assert "float64" in found["reason"]


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize("way", ["step", "data", "load_weights"])
def test_new_weights_are_packed_again(family: str, way: str) -> None:
    """By an optimizer, behind autograd's back, or from a trainer's copy."""
    model, other = make_model(family, 1), make_model(family, 1)
    generator = torch.Generator().manual_seed(1)
    for parameter in other.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    llm = LLM(model, kv_cache_tokens=1024)
    before = logprobs(llm)
    new = dict(other.named_parameters())
    if way == "load_weights":
        llm.load_weights((name, tensor.detach()) for name, tensor in new.items())
    for name, parameter in model.named_parameters():
        if way == "data":
            parameter.data.copy_(new[name].detach())
        elif way == "step":
            with torch.no_grad():
                parameter.copy_(new[name])
    assert_as_transformers(llm, other)
    # The tokens alone may happen to be those of the old weights.
    expected = [sum(one.logprobs) for one in greedy_reference(other, PROMPTS, max_tokens=12)]
    assert logprobs(llm) == pytest.approx(expected, abs=1e-3)
    assert before != pytest.approx(expected, abs=0.01)


def test_unchanged_weights_are_not_packed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(make_model("llama", 1), kv_cache_tokens=1024)
    first = greedy(llm)
    monkeypatch.setattr("fastsi.ops.pack_weight", lambda *_, **__: pytest.fail("packed again"))
    assert greedy(llm) == first


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # inside peft
@pytest.mark.parametrize("family", ["llama", "olmo2"])
@pytest.mark.parametrize("quantization", [None, "bf16", "int8"])
def test_adapters_of_peft_stay_outside_the_packed_base(family: str, quantization: Any) -> None:
    peft = pytest.importorskip("peft")
    base = make_model(family, 2)
    llm = LLM(base, kv_cache_tokens=1024, quantization=quantization)
    plain = greedy(llm)
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(base, config).eval()
    adapted = greedy(llm)
    assert adapted != plain, "the adapter does nothing: the test is too easy"
    assert llm.stats()["model"]["forward"] == "modules"
    if quantization is None:
        assert_as_transformers(llm, wrapped)
    with wrapped.disable_adapter():
        assert llm.stats()["model"]["packed_linears"] > 0
        if quantization is None:
            assert greedy(llm) == plain
    modes = {
        product.layers[0]: product.mode
        for product in llm._runner._swaps.products  # type: ignore[union-attr]
    }
    adapters = [
        m for name, m in base.named_modules() if name.endswith(("lora_A.default", "lora_B.default"))
    ]
    assert adapters
    assert {modes[m] for m in adapters} == {"fp32"}


def test_hooks_are_called_and_end_the_fused_pass() -> None:
    model = make_model("llama", 3)
    llm = LLM(model, kv_cache_tokens=1024)
    expected, calls = greedy(llm), []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    assert greedy(llm) == expected
    assert calls
    assert "forward hooks" in llm.stats()["model"]["reason"]
    handle.remove()
    calls.clear()
    assert greedy(llm) == expected
    assert not calls
    assert llm.stats()["model"]["forward"] == "fused"


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_swaps_end_with_the_session_even_after_an_error(family: str) -> None:
    model = make_model(family, 0)
    llm = LLM(model, kv_cache_tokens=512)
    seen: list[bool] = []

    def fail() -> None:
        seen.append(any("forward" in vars(m) for m in model.modules()))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), llm._runner.session():
        fail()
    assert seen == [True]
    assert not any("forward" in vars(m) for m in model.modules())


@pytest.mark.parametrize("change", ["scale", "eps", "activation", "norm"])
def test_a_model_that_only_looks_like_llama_is_not_fused(change: str) -> None:
    """Same modules, other arithmetic: numbers tell, and the model's own forward decides."""
    model = make_model("llama", 4)
    layer: Any = model.model.layers[0]
    if change == "scale":
        forward = type(layer.mlp).forward
        scaled = type("Scaled", (type(layer.mlp),), {"forward": lambda s, x: 1.1 * forward(s, x)})
        layer.mlp.__class__ = scaled
    elif change == "eps":
        layer.input_layernorm.variance_epsilon = 0.7
    elif change == "activation":
        layer.mlp.act_fn = nn.Tanh()
    else:
        layer.input_layernorm = nn.LayerNorm(model.config.hidden_size, bias=False)
    llm = LLM(model, kv_cache_tokens=1024)
    assert_as_transformers(llm, model)
    fused = llm.stats()["model"]["forward"] == "fused"
    assert fused == (change == "eps"), "a different eps is still this arithmetic"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_bfloat16_cache_halves_memory_and_moves_logprobs_little(family: str) -> None:
    model = make_model(family, 5)
    rng = np.random.default_rng(0)
    prompts = sample_prompts(rng, model.config.vocab_size, 3, min_tokens=20)
    given = [[prompt[:10]] for prompt in prompts]
    full = LLM(model, kv_cache_tokens=1024)
    half = LLM(model, kv_cache_tokens=1024, kv_dtype="bfloat16")
    assert half._engine.pool.bytes_per_token * 2 == full._engine.pool.bytes_per_token
    difference = np.abs(np.subtract(full.score(prompts, given), half.score(prompts, given)))
    # Random weights of wide spread amplify the rounding of keys; what is wrong differs by units.
    assert 0 < difference.max() < 1
    assert difference.mean() < 0.1


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_an_int8_cache_quarters_memory_and_moves_logprobs_little(family: str) -> None:
    model = make_model(family, 5)
    rng = np.random.default_rng(0)
    prompts = sample_prompts(rng, model.config.vocab_size, 3, min_tokens=20)
    given = [[prompt[:10]] for prompt in prompts]
    full = LLM(model, kv_cache_tokens=1024)
    small = LLM(model, kv_cache_tokens=1024, kv_dtype="int8")
    pool = small._engine.pool
    assert {cache.dtype for cache in (*pool.k, *pool.v)} == {torch.int8}
    held = sum(t.nbytes for t in (*pool.k, *pool.v, *pool.k_scales, *pool.v_scales))
    assert held == pool.bytes_per_token * pool.num_pages * pool.page_size
    # One byte per number instead of four, and one scale of four bytes per token, head and cache.
    size = pool.k[0].shape[3]
    assert pool.bytes_per_token * 4 * size == full._engine.pool.bytes_per_token * (size + 4)
    difference = np.abs(np.subtract(full.score(prompts, given), small.score(prompts, given)))
    # Random weights of wide spread amplify the rounding of keys; what is wrong differs by units.
    assert 0 < difference.max() < 2
    assert difference.mean() < 0.3
    assert all(len(path) == GREEDY.max_tokens for path in greedy(small))
    assert small.stats()["kv_bytes_saved"] % pool.bytes_per_token == 0


@pytest.mark.parametrize(
    ("quantization", "kv_dtype", "limit"),
    [
        (None, "int8", 0.01),
        ("bf16", "auto", 0.003),
        ("bf16", "int8", 0.01),
        ("int8", "int8", 0.03),
    ],
)
def test_a_trained_model_hardly_notices(quantization: Any, kv_dtype: Any, limit: float) -> None:
    """Log-probs of its own answers; the cache errs by 0.002 in the mean, int8 weights by 0.005."""
    full = LLM(builtin_model(), kv_cache_tokens=4096)
    problems = make_problems("evaluate", 6, seed=0)
    prompts = [f"Q: {problem.question}\nA:" for problem in problems]
    params = SamplingParams(temperature=0, max_tokens=24)
    answers = [[r.outputs[0].token_ids] for r in full.generate(prompts, params, use_tqdm=False)]
    options: dict[str, Any] = {"kv_dtype": kv_dtype, "quantization": quantization}
    small = LLM(full.model, tokenizer=full.tokenizer, kv_cache_tokens=4096, **options)
    pairs = zip(full.score(prompts, answers), small.score(prompts, answers), strict=True)
    difference = np.abs(np.concatenate([np.subtract(a[0], b[0]) for a, b in pairs]))
    assert 0 < difference.mean() < limit


def test_kv_dtypes_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"kv_dtype='bfloat16': the weights are torch\.float64"):
        LLM(make_model("llama", 0, dtype=torch.float64), kv_dtype="bfloat16")
    with pytest.raises(ConfigError, match="did you mean 'bfloat16'"):
        LLM(make_model("llama", 0), kv_dtype="bfloat")  # type: ignore[arg-type]
    for dtype in (torch.float64, torch.float16):
        with pytest.raises(ConfigError, match=rf"kv_dtype='int8': the weights are {dtype} on cpu"):
            LLM(make_model("llama", 0, dtype=dtype), kv_dtype="int8")
    monkeypatch.setattr(ModelRunner, "device", torch.device("cuda"))
    message = r"kv_dtype='int8': .* on cuda; only float32 and bfloat16 on a CPU"
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ConfigError, match=message):
            LLM(make_model("llama", 0, dtype=dtype), kv_dtype="int8")
    with pytest.raises(ConfigError, match=r"kv_dtype='float32': the weights are torch\.bfloat16"):
        LLM(make_model("llama", 0, dtype=torch.bfloat16), kv_dtype="float32")


def test_importing_changes_neither_threads_nor_flags() -> None:
    script = (
        "import torch\n"
        "def state():\n"
        "    return (torch.get_num_threads(), torch.get_num_interop_threads(),\n"
        "            torch.get_float32_matmul_precision(), torch.get_default_dtype(),\n"
        "            torch.backends.mkldnn.enabled, torch.are_deterministic_algorithms_enabled(),\n"
        "            torch.get_flush_denormal() if hasattr(torch, 'get_flush_denormal') else 0,\n"
        "            float(torch.tensor(1e-40) * 1), torch.is_grad_enabled())\n"
        "torch.set_num_threads(1)\n"
        "before = state()\n"
        "import fastsi, fastsi.engine, fastsi.ops, fastsi.ops.linear._cpu, fastsi.train\n"
        "fastsi.ops.linear(torch.ones(3, 5), fastsi.ops.pack_weight([torch.ones(4, 5)]))\n"
        "assert state() == before, (before, state())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=900)
