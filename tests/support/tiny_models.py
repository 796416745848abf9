"""Tiny random transformers models of eleven architectures, and a tokenizer, without a download.

Every model is drawn from a seed: its sizes, its options and its weights. The weights are spread
wider than transformers' own initialisation (0.02), which makes every position predict nearly the
same token and so hides errors in attention; see `spread_weights`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

PAD, BOS, EOS = 0, 1, 2
"""Special token ids of every tiny model and of `byte_tokenizer`."""
NUM_SPECIAL = 3
BYTE_VOCAB = NUM_SPECIAL + 256
"""Vocabulary of `byte_tokenizer`; pass it as ``vocab_size`` to models that read and write text."""

_CONTEXT = 512
_CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def _common(
    rng: np.random.Generator, *, head_dims: tuple[int, ...] = (8, 12, 16)
) -> dict[str, Any]:
    """Sizes every Llama-like family shares: grouped, single and plain multi-head attention."""
    kv_heads = int(rng.choice([1, 2, 3]))
    heads = kv_heads * int(rng.choice([1, 2, 3] if kv_heads < 3 else [1, 2]))
    head_dim = int(rng.choice(head_dims))
    return {
        "hidden_size": heads * head_dim,
        "intermediate_size": int(rng.integers(40, 97)),
        "num_hidden_layers": int(rng.integers(2, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": _CONTEXT,
    }


def _without_head_dim(rng: np.random.Generator) -> dict[str, Any]:
    """For families whose head size is hidden_size / num_attention_heads."""
    values = _common(rng)
    del values["head_dim"]
    return values


def _free_hidden(rng: np.random.Generator) -> dict[str, Any]:
    """For families whose heads need not add up to the hidden size (but must divide it)."""
    return _common(rng) | {"hidden_size": int(rng.choice([36, 48, 60]))}


def _llama(rng: np.random.Generator) -> PreTrainedConfig:
    return transformers.LlamaConfig(**_free_hidden(rng), attention_bias=bool(rng.integers(2)))


def _qwen2(rng: np.random.Generator) -> PreTrainedConfig:
    return transformers.Qwen2Config(**_without_head_dim(rng))


def _qwen3(rng: np.random.Generator) -> PreTrainedConfig:
    return transformers.Qwen3Config(**_free_hidden(rng))


def _mistral(rng: np.random.Generator) -> PreTrainedConfig:
    return transformers.MistralConfig(**_free_hidden(rng), sliding_window=int(rng.integers(5, 30)))


def _gemma2(rng: np.random.Generator) -> PreTrainedConfig:
    values = _free_hidden(rng) | {"num_hidden_layers": 3}
    return transformers.Gemma2Config(
        **values,
        sliding_window=int(rng.integers(5, 30)),
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=int(rng.integers(6, 20)),
        attn_logit_softcapping=float(rng.uniform(3, 20)),
        final_logit_softcapping=float(rng.uniform(10, 30)),
    )


def _gemma3(rng: np.random.Generator) -> PreTrainedConfig:
    values = _free_hidden(rng) | {"num_hidden_layers": 3}
    return transformers.Gemma3TextConfig(
        **values,
        sliding_window=int(rng.integers(5, 30)),
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        query_pre_attn_scalar=int(rng.integers(6, 20)),
    )


def _phi3(rng: np.random.Generator) -> PreTrainedConfig:
    window = int(rng.integers(5, 30)) if rng.integers(2) else None
    return transformers.Phi3Config(
        **_without_head_dim(rng), sliding_window=window, original_max_position_embeddings=_CONTEXT
    )


def _gpt2(rng: np.random.Generator) -> PreTrainedConfig:
    heads = int(rng.choice([2, 3, 4]))
    return transformers.GPT2Config(
        n_positions=_CONTEXT,
        n_embd=heads * int(rng.choice([8, 12, 16])),
        n_layer=int(rng.integers(2, 4)),
        n_head=heads,
        scale_attn_by_inverse_layer_idx=bool(rng.integers(2)),
    )


def _gpt_neox(rng: np.random.Generator) -> PreTrainedConfig:
    heads = int(rng.choice([2, 3, 4]))
    return transformers.GPTNeoXConfig(
        hidden_size=heads * 16,
        intermediate_size=int(rng.integers(40, 97)),
        num_hidden_layers=int(rng.integers(2, 4)),
        num_attention_heads=heads,
        max_position_embeddings=_CONTEXT,
        use_parallel_residual=bool(rng.integers(2)),
    )


def _olmo2(rng: np.random.Generator) -> PreTrainedConfig:
    return transformers.Olmo2Config(**_without_head_dim(rng))


def _qwen3_moe(rng: np.random.Generator) -> PreTrainedConfig:
    return transformers.Qwen3MoeConfig(
        **_free_hidden(rng),
        moe_intermediate_size=int(rng.integers(24, 49)),
        num_experts=int(rng.integers(4, 7)),
        num_experts_per_tok=2,
        norm_topk_prob=bool(rng.integers(2)),
    )


_BUILDERS: dict[str, Callable[[np.random.Generator], PreTrainedConfig]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "olmo2": _olmo2,
    "qwen3_moe": _qwen3_moe,
}
FAMILIES = tuple(_BUILDERS)
"""Names accepted by `make_config` and `make_model`."""


def make_config(family: str, seed: int, *, vocab_size: int | None = None) -> PreTrainedConfig:
    """A random small config.

    Args:
        family: one of `FAMILIES`.
        seed: fixes every size and option.
        vocab_size: tokens; None draws 97, 131 or 257.
    """
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    config = _BUILDERS[family](rng)
    config.vocab_size = vocab_size or int(rng.choice([97, 131, 257]))
    config.tie_word_embeddings = bool(rng.integers(2)) if family in ("llama", "qwen2") else False
    config.pad_token_id, config.bos_token_id, config.eos_token_id = PAD, BOS, EOS
    return config


def spread_weights(model: PreTrainedModel, seed: int, *, gain: float = 2.2) -> None:
    """Redraw every parameter in place so that greedy continuations are varied.

    Matrices get a standard deviation of ``gain / sqrt(fan_in)`` (0.2 to 0.4 at these sizes),
    position embeddings and the input embedding 1; vectors (norm weights, biases) keep their value
    plus noise of 0.2, so that a forgotten bias or norm shows. Draws are made in float64: float32
    and float64 models of one seed are the same model up to rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    transposed = {id(m.weight) for m in model.modules() if isinstance(m, Conv1D)}  # GPT-2
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter is embedding or name.endswith("wpe.weight"):
                parameter.copy_(noise)
            elif parameter.ndim < 2:
                parameter.add_(0.2 * noise)
            else:
                fan_in = parameter.shape[0 if id(parameter) in transposed else -1]
                parameter.copy_(noise * gain / fan_in**0.5)
        if head is not embedding:
            # Logits of spread 3 or so: neither uniform nor decided.
            head.mul_(3.0 / head.shape[-1] ** 0.5 / head.std())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in ``dtype``, buffers such as rotary frequencies included."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def make_model(
    family: str,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    vocab_size: int | None = None,
    config: PreTrainedConfig | None = None,
) -> PreTrainedModel:
    """A random small causal language model on the CPU, in eval mode.

    Args:
        family: one of `FAMILIES`; ignored if ``config`` is given.
        seed: fixes sizes and weights.
        dtype: of all parameters, ``torch.float32`` or ``torch.float64``.
        vocab_size: tokens; None draws 97, 131 or 257.
        config: use this config instead of a random one.
    """
    config = config or make_config(family, seed, vocab_size=vocab_size)
    # The fused experts of transformers exist in half and single precision alone.
    experts = {"experts_implementation": "eager"} if config.model_type == "qwen3_moe" else {}
    with default_dtype(dtype):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, **experts)
    spread_weights(model, seed)
    # Generation settings that come with a family must not filter what tests compare.
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS
    )
    return model.eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes: id = byte + 3, after `<pad>`, `<s>` and `</s>`; adds no BOS."""
    alphabet = _byte_alphabet()
    vocab = {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    vocab |= {char: NUM_SPECIAL + byte for byte, char in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable}
    stand_in |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [stand_in[byte] for byte in range(256)]


def save_model(folder: Path, family: str = "llama", seed: int = 0, **kwargs: Any) -> Path:
    """Write a tiny text model with `byte_tokenizer` to ``folder`` in Hugging Face's format."""
    model = make_model(family, seed, vocab_size=BYTE_VOCAB, **kwargs)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == BYTE_VOCAB
    return folder


def sample_prompts(
    rng: np.random.Generator,
    vocab_size: int,
    count: int,
    *,
    min_tokens: int = 1,
    max_tokens: int = 40,
    shared_tokens: int = 0,
) -> list[list[int]]:
    """Ragged random prompts without special tokens.

    Args:
        rng: source of randomness.
        vocab_size: ids are drawn from [3, vocab_size).
        count: number of prompts.
        min_tokens: shortest own part, in tokens.
        max_tokens: longest own part, in tokens, inclusive.
        shared_tokens: length of a random prefix that all prompts begin with.
    """
    shared = rng.integers(NUM_SPECIAL, vocab_size, shared_tokens).tolist()
    lengths = rng.integers(min_tokens, max_tokens + 1, count)
    return [shared + rng.integers(NUM_SPECIAL, vocab_size, n).tolist() for n in lengths]
