"""Greedy tokens and log-probs equal transformers' on random models of every supported family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from fastsi.engine import LLM
from fastsi.errors import ModelError
from fastsi.types import SamplingParams
from tests.support.compare import assert_same_paths, greedy_reference
from tests.support.tiny_models import FAMILIES, make_model, sample_prompts

TOKENS = 64
PATHS = 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_tokens_and_logprobs_equal_generate(family: str, seed: int) -> None:
    model = make_model(family, seed, dtype=torch.float32)
    rng = np.random.default_rng(seed)
    prompts = sample_prompts(
        rng, model.config.vocab_size, 8, shared_tokens=int(rng.integers(0, 20))
    )
    expected = greedy_reference(model, prompts, max_tokens=TOKENS)
    params = SamplingParams(n=PATHS, temperature=0, max_tokens=TOKENS, ignore_eos=True)
    results = LLM(model, kv_cache_tokens=8192).generate(prompts, params, use_tqdm=False)
    for number, (result, reference) in enumerate(zip(results, expected, strict=True)):
        paths = [path.token_ids for path in result.outputs]
        assert_same_paths(paths, [reference.tokens] * PATHS, f"{family} {seed} prompt {number}")
        for path in result.outputs:
            error = np.abs(np.subtract(path.token_logprobs, reference.logprobs)).max()
            assert error <= 1e-4


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_scores_of_given_continuations_equal_a_full_forward_pass(family: str) -> None:
    model = make_model(family, 3, dtype=torch.float64)
    rng = np.random.default_rng(3)
    vocab = model.config.vocab_size
    prompts = sample_prompts(rng, vocab, 3, shared_tokens=9)
    given = [sample_prompts(rng, vocab, 1 + number) for number in range(3)]
    # Chunks of 17 tokens cut prompts and continuations in two.
    llm = LLM(model, kv_cache_tokens=2048, max_batch_rows=4, max_step_tokens=17)
    scores = llm.score(prompts, given)
    for prompt, continuations, found in zip(prompts, given, scores, strict=True):
        for continuation, logprobs in zip(continuations, found, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + continuation])).logits[0].double()
            rows = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
            expected = rows[range(len(continuation)), continuation]
            np.testing.assert_allclose(logprobs, expected.numpy(), atol=1e-6)


def refused(config: transformers.PreTrainedConfig, match: str) -> None:
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=match):
        LLM(model)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}


def test_features_that_cannot_run_are_refused_by_name() -> None:
    refused(
        transformers.LlamaConfig(
            **SMALL,
            intermediate_size=32,
            max_position_embeddings=64,
            rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        ),
        "dynamic RoPE",
    )
    refused(
        transformers.GptOssConfig(
            **SMALL, num_key_value_heads=1, head_dim=16, intermediate_size=32, num_local_experts=2
        ),
        "attention sinks",
    )
    refused(
        transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64),
        "state-space",
    )
    refused(transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=64), "ALiBi")


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    model = make_model("llama", 0)
    model.config.layer_types = ["chunked_attention"] * model.config.num_hidden_layers
    before = model.config._attn_implementation
    with pytest.raises(ModelError, match="chunked_attention"):
        LLM(model)
    assert model.config._attn_implementation == before


def test_the_model_outside_the_engine_is_untouched() -> None:
    model = make_model("llama", 0)
    model.train()
    ids = torch.tensor([[5, 6, 7, 8]])
    before, name = model(ids).logits, model.config._attn_implementation
    llm = LLM(model, kv_cache_tokens=512)
    llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4), use_tqdm=False)
    assert model.training
    assert all(module.training for module in model.modules())
    assert model.config._attn_implementation == name
    logits = model(ids).logits
    torch.testing.assert_close(logits, before, rtol=0, atol=0)
    logits.sum().backward()  # activations of the engine must not have left inference tensors behind
