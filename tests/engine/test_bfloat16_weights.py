"""Models in bfloat16 on a CPU: rows in float32, products of the weights as they are."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastsi.engine import LLM
from fastsi.engine.fused_decoder import FusedDecoder
from fastsi.engine.packed_layers import weight_of
from fastsi.engine.released import is_released
from fastsi.errors import ConfigError, ModelError
from fastsi.types import SamplingParams
from tests.ops.support import ISAS, running
from tests.support.compare import sequence_logprobs
from tests.support.tiny_models import FAMILIES, make_model, sample_prompts

BF16 = torch.bfloat16
FUSED = ["llama", "qwen2", "qwen3", "mistral"]
PROMPTS = sample_prompts(np.random.default_rng(8), 60, 4, shared_tokens=9)
SAMPLED = SamplingParams(n=3, max_tokens=10, ignore_eos=True, seed=3)


def bf16_model(family: str, seed: int = 0) -> Any:
    """With biases that are not 0, where it has any."""
    model = make_model(family, seed, dtype=BF16)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    return model


def engine(model: Any, **options: Any) -> LLM:
    return LLM(model, kv_cache_tokens=1024, **options)


def paths(llm: LLM) -> list[Any]:
    found = llm.generate(PROMPTS, SAMPLED, use_tqdm=False)
    return [(one.token_ids, one.token_logprobs) for r in found for one in r.outputs]


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone().view(torch.int16) for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_made_of_the_weights_as_they_are(family: str) -> None:
    model = bf16_model(family)
    llm = engine(model)
    found = llm.stats()["model"]
    assert found["forward"] == ("fused" if family in FUSED else "modules"), found["reason"]
    paths(llm)
    products = llm._runner._products
    assert products
    for product in products:
        assert product.mode == "bf16"
        weights = [weight_of(layer) for layer in product.layers]
        assert product.nbytes <= 3 * sum(w.nbytes for w in weights) + 4096, "panels are filled up"
        for weight, value in zip(weights, product.packed[0].unpack(), strict=True):
            assert torch.equal(value, weight.float())
    assert llm._engine.pool.k[0].dtype == BF16


def errors(family: str, seed: int, options: list[dict[str, Any]]) -> tuple[float, list[float]]:
    """Mean error of log-probs against float64: of the model itself, and with each of the options.

    The mean over tokens tells, since one token can be lucky.
    """
    model = bf16_model(family, seed)
    exact = copy.deepcopy(model).double()
    texts = np.random.default_rng(seed).integers(3, model.config.vocab_size, (4, 48)).tolist()

    def scores(of: Any) -> torch.Tensor:
        at = torch.arange(40)
        rows = [sequence_logprobs(of, t[:8], t[8:])[at, torch.tensor(t[8:])] for t in texts]
        return torch.stack(rows)

    want, own = scores(exact), scores(model)
    apart = []
    for each in options:
        given = engine(model, **each).score([t[:8] for t in texts], [[t[8:]] for t in texts])
        found = torch.tensor([scored for (scored,) in given], dtype=torch.float64)
        apart.append(float((found - want).abs().mean()))
    return float((own - want).abs().mean()), apart


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "olmo2"])
def test_logprobs_err_less_than_the_model_itself(family: str) -> None:
    """Of the fused pass, which rounds nothing but inputs of products and the cache; measured: half
    to 0.85 of the model's own error. Elsewhere rows are rounded by the model: 0.8 to 1.2.
    """
    options: list[dict[str, Any]] = [{}, {"kv_dtype": "float32"}]
    found = [errors(family, seed, options) for seed in range(3)]
    own = sum(each for each, _ in found)
    for number in range(len(options)):
        ours = sum(apart[number] for _, apart in found)
        assert ours < own * (0.95 if family in FUSED else 1.2), (ours, own)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_int8_weights_and_cache_err_little_more(family: str) -> None:
    """Random weights of wide spread amplify roundings: 1.4 to 3.7 times the model's own error."""
    own, (ours,) = errors(family, 1, [{"quantization": "int8", "kv_dtype": "int8"}])
    assert own < ours < 6 * own


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize("quantization", [None, "bf16", "int8"])
@pytest.mark.parametrize("kv_dtype", ["auto", "float32", "int8"])
def test_one_call_has_the_bits_of_the_ops_one_by_one(
    family: str, quantization: Any, kv_dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = engine(bf16_model(family, 4), quantization=quantization, kv_dtype=kv_dtype)
    together = paths(llm)
    monkeypatch.setattr(FusedDecoder, "_in_one_call", lambda *_: False)
    llm.reset_prefix_cache()
    assert paths(llm) == together


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_computes_the_same(isa: str) -> None:
    """As the reference does, but for the order of sums: far less than a rounding to bfloat16."""
    model = bf16_model("qwen3", 2)
    given = [[prompt[::-1]] for prompt in PROMPTS]
    with running("reference"):
        want = engine(model).score(PROMPTS, given)
    with running(f"cpu-{isa}"):
        found = engine(model).score(PROMPTS, given)
    apart = [np.abs(np.subtract(a[0], b[0])) for a, b in zip(found, want, strict=True)]
    assert np.concatenate(apart).mean() < 0.02


@pytest.mark.parametrize(("family", "kv_dtype"), [("qwen3", "auto"), ("gpt2", "int8")])
def test_deterministic_models_keep_their_bits_in_every_batch(family: str, kv_dtype: Any) -> None:
    model = bf16_model(family, 3)
    want = paths(engine(model, deterministic=True, kv_dtype=kv_dtype))
    for more in ({"max_batch_rows": 3}, {"sharing": "none"}, {"max_step_tokens": 20}):
        options: dict[str, Any] = {"max_batch_rows": 16, "kv_dtype": kv_dtype} | more
        assert paths(engine(model, deterministic=True, **options)) == want, more


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_released_weights_come_back_with_the_same_bits(family: str) -> None:
    llm = engine(bf16_model(family, 3))
    expected, found = bits(llm.model), paths(llm)
    llm.release_weights()
    assert any(map(is_released, llm.model.parameters()))
    assert paths(llm) == found
    llm.restore_weights()
    restored = bits(llm.model)
    assert all(torch.equal(restored[name], expected[name]) for name in expected)
    assert {p.dtype for p in llm.model.parameters()} == {BF16}
    assert paths(llm) == found


def test_weights_rounded_to_8_bits_do_not_come_back() -> None:
    llm = engine(bf16_model("llama"), quantization="int8", release_weights=True)
    assert len(paths(llm)) == len(PROMPTS) * 3
    with pytest.raises(ConfigError, match=r"int8.*rounded"):
        llm.restore_weights()


@pytest.mark.parametrize(
    "name", ["input_layernorm.weight", "model.norm.weight", "q_norm.weight", "embed_tokens.weight"]
)
def test_new_values_of_what_is_not_packed_are_seen(name: str) -> None:
    """The pass reads copies of norms in float32."""
    model = bf16_model("qwen3", 9)
    llm = engine(model)
    before = paths(llm)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(name):
                parameter.mul_(1.5)
    after = paths(llm)
    assert after != before
    assert after == paths(engine(model))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_may_change_its_dtype_between_calls(family: str) -> None:
    """The cache keeps the type it was made with."""
    model = make_model(family, 2)
    llm = engine(model)
    wide = paths(llm)
    model.to(BF16)
    llm.reset_prefix_cache()
    narrow = paths(llm)
    assert narrow != wide
    assert narrow == paths(engine(model, kv_dtype="float32"))


def test_a_model_of_two_dtypes_that_does_not_run_by_itself_is_refused() -> None:
    model = bf16_model("llama")
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data.float()
    with pytest.raises(ModelError, match=r"its own forward pass fails .* dtype"):
        engine(model)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # inside peft
def test_adapters_run_beside_packed_layers() -> None:
    peft = pytest.importorskip("peft")
    base = bf16_model("llama", 2)
    llm = engine(base)
    plain = paths(llm)
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(base, config).eval()
    adapted = paths(llm)
    assert adapted != plain
    assert llm.stats()["model"]["forward"] == "modules"
    text = [*PROMPTS[0], *PROMPTS[1]]
    (scored,) = llm.score([text[:5]], [[text[5:]]])[0]
    want = sequence_logprobs(wrapped, text[:5], text[5:])
    at = want[torch.arange(len(text) - 5), torch.tensor(text[5:])]
    assert float((torch.tensor(scored) - at).abs().mean()) < 0.2
