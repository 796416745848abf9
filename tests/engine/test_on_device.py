"""The whole engine on each device at hand: one body for the CPU and for a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastsi.engine import LLM
from fastsi.types import SamplingParams
from tests.support.compare import greedy_reference, max_error, sequence_logprobs
from tests.support.on_gpu import DEVICES
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model, sample_prompts

PROMPTS = sample_prompts(np.random.default_rng(3), BYTE_VOCAB, 5, shared_tokens=40)
SAMPLED = SamplingParams(
    n=7, temperature=0.9, max_tokens=30, seed=5, stop_token_ids=list(range(40, 260, 20))
)


def on(device: str, family: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    return make_model(family, 5, vocab_size=BYTE_VOCAB, dtype=dtype).to(device)


def engine(model: Any, **config: Any) -> LLM:
    options = {"kv_cache_tokens": 8192, "tokenizer": byte_tokenizer()} | config
    return LLM(model, **options)


def outcome(llm: LLM, params: SamplingParams = SAMPLED) -> list[Any]:
    outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    llm._engine.tree.check_integrity()
    llm._engine.pool.check(llm._engine.tree.owned_pages())
    return [(p.token_ids, p.token_logprobs, p.finish_reason) for o in outputs for p in o.outputs]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma2"])
@pytest.mark.parametrize("sharing", ["tree", "none"])
def test_greedy_tokens_are_those_of_transformers(device: str, family: str, sharing: Any) -> None:
    """In float32, except where the model itself hardly prefers one of two tokens."""
    model = on(device, family)
    params = SamplingParams(n=1, temperature=0.0, max_tokens=16, ignore_eos=True)
    llm = engine(model, sharing=sharing)
    if family in ("llama", "qwen3"):
        assert llm.stats()["model"]["forward"] == "fused", llm.stats()["model"]["reason"]
    found = outcome(llm, params)
    for (tokens, _, _), want in zip(
        found, greedy_reference(model, PROMPTS, max_tokens=16), strict=True
    ):
        if tokens != want.tokens:
            at = next(i for i, (a, b) in enumerate(zip(tokens, want.tokens, strict=True)) if a != b)
            assert want.margins[at] < 1e-3, f"token {at}: {tokens[at]}, not {want.tokens[at]}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_logprobs_err_as_those_of_the_model_itself(device: str, dtype: torch.dtype) -> None:
    """At most twice the error that the model's own forward makes against float64."""
    model, exact = on(device, dtype=dtype), on(device).double()
    for mine, theirs in zip(exact.parameters(), model.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    continuations = [PROMPTS[(i + 1) % len(PROMPTS)][:12] for i in range(len(PROMPTS))]
    found = engine(model).score(PROMPTS, [[given] for given in continuations])
    apart, own = 0.0, 0.0
    for prompt, given, (scores,) in zip(PROMPTS, continuations, found, strict=True):
        at = (torch.arange(len(given)), torch.tensor(given))
        want = sequence_logprobs(exact, prompt, given).cpu()[at]
        plain = sequence_logprobs(model, prompt, given).cpu()[at]
        apart = max(apart, max_error(torch.tensor(scores), want))
        own = max(own, max_error(plain, want))
    assert apart <= 2 * own + 1e-6, f"largest error {apart:.3g}, the model's own {own:.3g}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [5, 64])
def test_pipeline_and_graphs_change_no_bit(device: str, rows: int) -> None:
    model = on(device)
    options: dict[str, Any] = {"deterministic": True, "max_batch_rows": rows}
    want = outcome(engine(model, pipeline=False, graphs="off", **options))
    assert outcome(engine(model, pipeline=True, graphs="off", **options)) == want
    for graphs in ("eager", "auto"):
        llm = engine(model, pipeline=True, graphs=graphs, **options)
        assert outcome(llm) == want
        assert outcome(llm) == want, "warm cache, recorded graphs"
    stats = llm.stats()["model"]
    if device == "cuda":
        assert 0 < stats["graphs_captured"] < stats["graphs_replayed"]
    else:
        assert stats["graphs_captured"] == stats["graphs_replayed"] == 0


@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_bits_do_not_depend_on_the_batch(device: str) -> None:
    model = on(device, "qwen3")
    want = outcome(engine(model, deterministic=True))
    for more in ({"max_batch_rows": 3}, {"sharing": "none"}, {"max_step_tokens": 65}):
        options = {"max_batch_rows": 64} | more
        assert outcome(engine(model, deterministic=True, **options)) == want, more


@pytest.mark.parametrize("device", DEVICES)
def test_the_cache_takes_a_share_of_free_memory(device: str) -> None:
    llm = engine(on(device), kv_cache_tokens="auto", max_model_len=256)
    assert llm.config.kv_cache_tokens >= 16
    assert llm._engine.pool.k[0].device.type == device
    assert all(tokens for tokens, _, _ in outcome(llm))


@pytest.mark.parametrize("device", DEVICES)
def test_new_weights_are_seen_by_recorded_graphs(device: str) -> None:
    """In place, as an optimizer writes them: packed copies are made anew, and graphs with them."""
    model = on(device)
    llm = engine(model, deterministic=True)
    before = outcome(llm)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    after = outcome(llm)
    assert after != before
    assert after == outcome(engine(model, deterministic=True, graphs="off"))
