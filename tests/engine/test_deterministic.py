"""deterministic=True: tokens and log-probs have the same bits in every batch, order and cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from fastsi.api import builtin_model
from fastsi.engine import LLM
from fastsi.errors import ConfigError
from fastsi.types import SamplingParams
from tests.support.tiny_models import make_model, sample_prompts

PATHS = 6
PARAMS = SamplingParams(n=PATHS, temperature=0.9, max_tokens=24, seed=5)
Bits = list[list[tuple[list[int], list[float]]]]
VARIANTS: list[dict[str, Any]] = [
    {"max_batch_rows": 1},
    {"max_batch_rows": 5, "max_step_tokens": 50},
    {"max_batch_rows": 33, "max_step_tokens": 70},
    {"sharing": "prefill"},
    {"sharing": "none", "max_batch_rows": 7},
]


def model_named(name: str) -> PreTrainedModel:
    if name == "builtin":
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(builtin_model())
        return model.eval()
    return make_model(name, 4)


def make_prompts(model: PreTrainedModel, seed: int) -> list[list[int]]:
    """Prompts that part inside blocks, at their edges, and whose ends are others' beginnings."""
    rng = np.random.default_rng(seed)
    vocab = int(model.config.vocab_size)
    long = rng.integers(3, vocab, 200).tolist()
    own = sample_prompts(rng, vocab, 3, shared_tokens=9)
    return [long[:150], long[:128], [*long[:128], *own[0]], [*long[:100], *own[1]], *own]


def bits(llm: LLM, prompts: list[list[int]], params: SamplingParams = PARAMS) -> Bits:
    results = llm.generate(prompts, params, use_tqdm=False)
    llm._engine.tree.check_integrity()
    llm._engine.pool.check(llm._engine.tree.owned_pages())
    return [[(path.token_ids, path.token_logprobs) for path in r.outputs] for r in results]


@pytest.mark.parametrize(
    ("name", "quantization", "kv_dtype"),
    [
        *(
            (name, kind, "auto")
            for name in ("builtin", "qwen3", "olmo2")
            for kind in (None, "bf16", "int8")
        ),
        ("builtin", None, "int8"),
        ("qwen3", "int8", "int8"),
        ("qwen3", "bf16", "int8"),
        ("olmo2", None, "int8"),
    ],
)
def test_the_same_bits_whatever_else_runs(name: str, quantization: Any, kv_dtype: Any) -> None:
    model = model_named(name)
    options: dict[str, Any] = {
        "deterministic": True,
        "quantization": quantization,
        "kv_dtype": kv_dtype,
        "kv_cache_tokens": 16384,
    }
    prompts = make_prompts(model, 1)
    llm = LLM(model, **options)
    expected = bits(llm, prompts)
    assert bits(llm, prompts) == expected, "warm cache"
    assert bits(llm, prompts[2:3]) == expected[2:3], "warm cache, one prompt"
    need = llm.stats()["peak_pages"] * 16
    for variant in VARIANTS:
        assert bits(LLM(model, **(options | variant)), prompts) == expected, variant
    small = LLM(model, **(options | {"kv_cache_tokens": max(need // 6, 336)}))
    assert bits(small, prompts) == expected, "preemption"
    assert small.stats()["preemptions"] > 0
    order = np.random.default_rng(2).permutation(len(prompts)).tolist()
    found = bits(LLM(model, **options), [prompts[i] for i in order])
    assert found == [expected[i] for i in order]
    alone = LLM(model, **options)
    for prompt, want in zip(prompts, expected, strict=True):
        alone.reset_prefix_cache()
        assert bits(alone, [prompt]) == [want], "alone"


def test_settings_of_other_paths_change_no_bits() -> None:
    """Log-probs of a path at temperature 1 were once computed another way beside other rows."""
    model = model_named("qwen3")
    prompts = make_prompts(model, 1)
    mixed = [
        SamplingParams(n=3, max_tokens=12, seed=i, temperature=t, logit_bias=bias)
        for i, (t, bias) in enumerate(
            [(1.0, None), (0.7, None), (0.0, None), (1.0, {5: 2.0}), (1.0, None)]
        )
    ]
    llm = LLM(model, deterministic=True, kv_cache_tokens=8192)
    together = llm.generate(prompts[:5], mixed, use_tqdm=False)
    for prompt, params, found in zip(prompts, mixed, together, strict=False):
        (alone,) = llm.generate([prompt], params, use_tqdm=False)
        for left, right in zip(found.outputs, alone.outputs, strict=True):
            assert (left.token_ids, left.token_logprobs) == (right.token_ids, right.token_logprobs)


def test_threads_change_no_bits() -> None:
    model = model_named("qwen3")
    llm = LLM(model, deterministic=True, kv_cache_tokens=8192)
    prompts = make_prompts(model, 3)
    expected = bits(llm, prompts)
    torch.set_num_threads(2)
    llm.reset_prefix_cache()
    assert bits(llm, prompts) == expected


def test_free_splits_do_change_bits() -> None:
    """Why prompts are cut into blocks: without, the spans of a prompt depend on its neighbours."""
    model = model_named("qwen3")
    prompts = make_prompts(model, 1)
    llm = LLM(model, kv_cache_tokens=16384)
    together = bits(llm, prompts)
    differ = 0
    for prompt, found in zip(prompts, together, strict=True):
        llm.reset_prefix_cache()
        differ += bits(llm, [prompt]) != [found]
    assert differ > 0


def test_what_depends_on_the_batch_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"model\.layers\.0\.mlp\.experts"):
        LLM(make_model("qwen3_moe", 0), deterministic=True)
    with pytest.raises(ConfigError, match="float64"):
        LLM(make_model("llama", 0, dtype=torch.float64), deterministic=True)
    with pytest.raises(ConfigError, match=r"quantization='int8': no layer.*float64"):
        LLM(make_model("llama", 0, dtype=torch.float64), quantization="int8")
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        LLM(make_model("llama", 0), quantization="int4")  # type: ignore[arg-type]


def test_a_forward_that_looks_at_its_batch_is_refused() -> None:
    model = make_model("olmo2", 0)
    norm = model.model.norm
    original = type(norm).forward

    class Batched(type(norm)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = original(self, x) * (1 + 1e-6 * x.shape[1])
            return result

    norm.__class__ = Batched
    with pytest.raises(ConfigError, match="gives rows other bits in a batch of 1"):
        LLM(model, deterministic=True)
