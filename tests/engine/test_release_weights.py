"""Weights that are packed can be given up: same tokens, less memory, and no silent nonsense."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from fastsi.engine import LLM
from fastsi.engine.released import is_released
from fastsi.errors import ConfigError, ModelError
from fastsi.types import SamplingParams
from tests.ops.support import running
from tests.support.tiny_models import BYTE_VOCAB, FAMILIES, byte_tokenizer, make_model

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = [[5, 6, 7, 8, 9], [11, 12, 13]]
BOTH = ["llama", "gemma2"]
"""One that is fused, one that runs by swapped modules."""


def greedy(llm: LLM) -> list[list[int]]:
    return [r.outputs[0].token_ids for r in llm.generate(PROMPTS, GREEDY, use_tqdm=False)]


def make(family: str, seed: int = 0, **options: Any) -> LLM:
    return LLM(make_model(family, seed), kv_cache_tokens=1024, **options)


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone().view(torch.int32) for name, p in model.named_parameters()}


def assert_same_bits(model: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    found = bits(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def released(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if is_released(p)}


@pytest.mark.parametrize("quantization", [None, "bf16", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_are_the_same_and_linears_are_held_once(family: str, quantization: Any) -> None:
    expected = greedy(make(family, quantization=quantization))
    llm = make(family, quantization=quantization, release_weights=True)
    assert greedy(llm) == expected
    model, found = llm.model, llm.stats()["model"]
    gone = [p for p in model.parameters() if is_released(p)]
    assert gone
    assert all(p.untyped_storage().nbytes() == p.itemsize for p in gone)
    assert found["released_bytes"] == sum(p.nbytes for p in gone)
    everything = sum(p.nbytes for p in make_model(family, 0).parameters())
    assert found["parameter_bytes"] == everything - found["released_bytes"]
    left = sum(p.untyped_storage().nbytes() for p in model.parameters())
    assert left == found["parameter_bytes"] + sum(p.itemsize for p in gone)


@pytest.mark.parametrize("family", FAMILIES)
def test_restored_weights_have_the_same_bits(family: str) -> None:
    llm = make(family, 3)
    expected, tokens = bits(llm.model), greedy(llm)
    llm.release_weights()
    assert released(llm.model)
    assert greedy(llm) == tokens
    llm.restore_weights()
    assert not released(llm.model)
    assert_same_bits(llm.model, expected)
    assert all(type(p) is nn.Parameter for p in llm.model.parameters())
    assert greedy(llm) == tokens
    assert llm.stats()["model"]["released_bytes"] == 0


def test_what_the_pass_reads_elsewhere_stays() -> None:
    llm = make("qwen2", release_weights=True)
    names = released(llm.model)
    assert "lm_head.weight" in names
    linears = {f"{n}.weight" for n, m in llm.model.named_modules() if isinstance(m, nn.Linear)}
    assert names == linears
    biases = [name for name, _ in llm.model.named_parameters() if name.endswith("bias")]
    assert biases, "nothing to keep: the test is too easy"


@pytest.mark.parametrize("family", BOTH)
def test_tied_embeddings_stay(family: str) -> None:
    model = make_model(family, 0)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.get_input_embeddings().weight
    llm = LLM(model, kv_cache_tokens=1024)
    expected = greedy(llm)
    llm.release_weights()
    assert greedy(llm) == expected
    assert not is_released(model.lm_head.weight)
    assert released(model)


def test_a_weight_that_code_of_the_model_reads_stays() -> None:
    """As DoRA does with its base layer; only a pass tells."""
    model = make_model("gemma2", 0)
    mlp: Any = model.model.layers[0].mlp

    class Reading(type(mlp)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = super().forward(x)
            return y * (1 + self.up_proj.weight.abs().mean())

    mlp.__class__ = Reading
    llm = LLM(model, kv_cache_tokens=1024)
    expected = greedy(llm)
    llm.release_weights()
    assert greedy(llm) == expected
    assert not is_released(mlp.up_proj.weight)
    assert is_released(mlp.down_proj.weight)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("part", [False, True])
def test_new_weights_are_packed_and_released_again(family: str, part: bool) -> None:
    llm, other = make(family, 1, release_weights=True), make_model(family, 1)
    gone, before = released(llm.model), greedy(llm)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in other.named_parameters():
            if not part or "q_proj" in name:
                p.mul_(1 + 0.3 * torch.rand(p.shape, generator=generator))
    new = [(n, p) for n, p in other.named_parameters() if not part or "q_proj" in n]
    assert llm.load_weights(new)
    assert released(llm.model) == gone
    assert greedy(llm) == greedy(LLM(other, kv_cache_tokens=1024)) != before
    llm.restore_weights()
    assert_same_bits(llm.model, bits(other))


def test_products_are_released_again_after_an_error() -> None:
    llm = make("llama", release_weights=True)
    gone, tokens = released(llm.model), greedy(llm)
    name, weight = next((n, p) for n, p in make_model("llama", 0).named_parameters() if n in gone)
    with pytest.raises(ModelError, match="no parameter"):
        llm.load_weights([(name, weight), ("nonsense", weight)])
    assert released(llm.model) == gone
    assert greedy(llm) == tokens


def test_a_new_bias_is_noticed_without_the_weights() -> None:
    llm, other = make("qwen2", 2, release_weights=True), make_model("qwen2", 2)
    before = greedy(llm)
    with torch.no_grad():
        for model in (llm.model, other):
            for name, p in model.named_parameters():
                if name.endswith("q_proj.bias"):
                    p.add_(3.0)
    assert greedy(llm) == greedy(LLM(other, kv_cache_tokens=1024)) != before


def test_only_one_product_is_held_twice_while_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastsi import ops

    model, pack = make_model("llama", 0), ops.pack_weight
    left: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        left.append(len(released(model)))
        return pack(*args, **kwargs)

    monkeypatch.setattr("fastsi.ops.pack_weight", counted)
    LLM(model, kv_cache_tokens=1024, release_weights=True)
    assert left[0] == 0
    assert all(b > a for a, b in itertools.pairwise(left))


@pytest.mark.parametrize("quantization", ["bf16", "int8"])
def test_rounded_weights_cannot_be_restored_or_loaded(quantization: Any) -> None:
    llm = make("llama", quantization=quantization, release_weights=True)
    gone, tokens = released(llm.model), greedy(llm)
    with pytest.raises(ConfigError, match=rf"{quantization}.*rounded"):
        llm.restore_weights()
    with pytest.raises(ConfigError, match=rf"{quantization}.*load the model again"):
        llm.load_weights(make_model("llama", 0).named_parameters())
    assert released(llm.model) == gone
    assert greedy(llm) == tokens


def test_deterministic_models_are_checked_before_anything_is_released() -> None:
    llm = make("llama", deterministic=True, release_weights=True)
    assert greedy(llm) == greedy(make("llama", deterministic=True))
    model = make_model("gpt2", 0)
    model.transformer.h[0].mlp.register_parameter("extra", nn.Parameter(torch.ones(2, 2)))
    with pytest.raises(ConfigError, match="deterministic"):
        LLM(model, kv_cache_tokens=1024, deterministic=True, release_weights=True)
    assert not released(model)


@pytest.mark.parametrize("family", BOTH)
def test_reading_values_is_an_error_that_says_what_to_do(family: str, tmp_path: Path) -> None:
    llm = make(family, 4)
    expected = bits(llm.model)
    llm.release_weights()
    model: Any = llm.model
    weight = model.model.layers[0].mlp.down_proj.weight
    ids = torch.tensor([[5, 6, 7]])
    for read in (
        lambda: model(ids),
        lambda: model(ids, labels=ids).loss.backward(),
        lambda: weight + 1,
        lambda: weight.detach() @ weight.detach().t(),
        lambda: weight.tolist(),
        lambda: weight.data,
        lambda: weight.data_ptr(),
        lambda: torch.stack([weight, weight]),
        lambda: weight.to(torch.float64),
        lambda: copy.deepcopy(model),
        lambda: model.save_pretrained(tmp_path),
        lambda: torch.save(model.state_dict(), tmp_path / "model.pt"),
        lambda: LLM(model),
    ):
        with pytest.raises(ModelError, match="restore_weights"):
            read()
    with torch.no_grad(), pytest.raises(ModelError, match="restore_weights"):
        weight.copy_(torch.zeros(weight.shape))
    assert "Released" in repr(weight)
    assert list(model.state_dict()) == list(make_model(family, 4).state_dict())
    for name, value in model.state_dict().items():
        assert value.shape == make_model(family, 4).state_dict()[name].shape
        assert value.dtype == torch.float32
    llm.restore_weights()
    assert_same_bits(model, expected)
    model(ids, labels=ids).loss.backward()
    assert weight.grad is not None
    with torch.no_grad():
        weight.sub_(weight.grad)
    assert greedy(llm) == greedy(LLM(model, kv_cache_tokens=1024))


@pytest.mark.parametrize("family", BOTH)
def test_changes_that_need_the_weights_are_refused(family: str) -> None:
    llm = make(family, release_weights=True)
    model: Any = llm.model
    tokens = greedy(llm)
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(ConfigError, match="hooks or dtype have changed"):
        greedy(llm)
    handle.remove()
    assert greedy(llm) == tokens
    layer = model.model.layers[0].self_attn.o_proj
    own, layer.weight = layer.weight, nn.Parameter(torch.zeros(layer.weight.shape))
    with pytest.raises(ConfigError, match="another object"):
        greedy(llm)
    layer.weight = own
    with running("cpu-portable"), pytest.raises(ConfigError, match="packed for"):
        greedy(llm)
    assert greedy(llm) == tokens
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    llm.restore_weights()
    assert greedy(llm) == tokens


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # inside peft
@pytest.mark.parametrize("dora", [False, True])
def test_adapters_of_peft_are_never_released(dora: bool) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False, use_dora=dora
    )
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(make_model("llama", 2), config).eval()
    llm = LLM(wrapped, kv_cache_tokens=1024)
    expected = greedy(llm)
    with wrapped.disable_adapter():
        plain = greedy(llm)
    assert plain != expected
    llm.release_weights()
    assert greedy(llm) == expected
    gone = released(wrapped)
    assert not [name for name in gone if "lora" in name]
    assert bool([name for name in gone if "base_layer" in name]) == (not dora)
    with wrapped.disable_adapter():
        assert greedy(llm) == plain
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_B" in name:
                p.zero_()
    if not dora:
        assert greedy(llm) == plain
        with pytest.raises(ModelError, match="restore_weights"):
            wrapped.merge_adapter()


def test_the_option_is_refused_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = make("llama")
    monkeypatch.setattr(type(llm._runner), "device", torch.device("cuda", 0))
    with pytest.raises(ConfigError, match="release_weights=True: the model is on cuda:0"):
        llm.release_weights()
    assert not released(llm.model)


def test_other_dtypes_are_not_packed_and_so_not_released() -> None:
    llm = LLM(
        make_model("llama", 0, dtype=torch.float64), kv_cache_tokens=1024, release_weights=True
    )
    assert greedy(llm)
    assert llm.stats()["model"]["released_bytes"] == 0


_MEASURE = """
import re, resource, sys, torch
from fastsi.engine import LLM
from fastsi.types import SamplingParams
torch.set_num_threads(1)
open("/proc/self/clear_refs", "w").write("5")  # the peak from here on, without imports
llm = LLM(sys.argv[1], kv_cache_tokens=256, max_model_len=64, release_weights=sys.argv[2] == "yes")
llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True), use_tqdm=False)
pages = int(open("/proc/self/statm").read().split()[1])
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) << 10
found = llm.stats()["model"]
print(pages * resource.getpagesize(), peak, found["released_bytes"], found["packed_bytes"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("isa", ["portable", "the one in force"])
def test_a_process_is_smaller_by_the_released_bytes(tmp_path: Path, isa: str) -> None:
    """At its peak as well: products are packed and released one after another.

    Portable code packs weights into as many bytes as they had. AMX packs those of this checkpoint
    into half as many, so there is less to save at the peak: what is packed, not what is released.
    """
    config = transformers.LlamaConfig(
        vocab_size=BYTE_VOCAB,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=256,
    )
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)

    def measured(release: str) -> list[int]:
        run = [sys.executable, "-c", _MEASURE, str(tmp_path), release]
        forced = {"FASTSI_ISA": isa} if isa == "portable" else {}
        done = subprocess.run(
            run, capture_output=True, text=True, check=True, env=os.environ | forced
        )
        return [int(each) for each in done.stdout.split()[-4:]]

    kept, kept_peak, _, packed = measured("no")
    given, given_peak, gone, _ = measured("yes")
    assert gone > 90 << 20
    assert kept - given > 0.8 * gone
    assert packed > 0.95 * gone or isa != "portable"
    assert kept_peak - given_peak > 0.4 * (gone if isa == "portable" else packed)


def test_what_stays_does_not_keep_a_mapped_checkpoint(tmp_path: Path) -> None:
    model = make_model("llama", 0)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    llm = LLM(str(tmp_path), kv_cache_tokens=1024)
    embedding = llm.model.get_input_embeddings().weight
    assert not embedding.untyped_storage().resizable(), "not mapped: the test is too easy"
    tokens = greedy(llm)
    llm.release_weights()
    kept = [p for p in llm.model.parameters() if not is_released(p)]
    assert kept
    assert all(p.untyped_storage().resizable() for p in kept)
    assert greedy(llm) == tokens
    assert torch.equal(llm.model.get_input_embeddings().weight, model.model.embed_tokens.weight)


def test_memory_shared_with_another_process_stays_shared() -> None:
    llm = make("llama")
    llm.model.share_memory()
    llm.release_weights()
    kept = [p for p in llm.model.parameters() if not is_released(p)]
    assert all(p.is_shared() for p in kept)
    assert released(llm.model)
