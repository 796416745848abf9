"""Shapes of the models and of the work; weights are random and made on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from _floor import PathsWorkload
from transformers import PreTrainedConfig, PreTrainedModel

_LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's sizes, and how much of the floor its decoding should reach."""

    name: str
    kind: type[PreTrainedConfig]
    sizes: dict[str, Any]
    goal: float
    """Least share of the step floor."""

    def config(self, dry: bool) -> PreTrainedConfig:
        """The config, or in a dry run a toy one of the same architecture."""
        return self.kind(**(self.sizes | _TOY if dry else self.sizes))


_TOY = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}

SMALL = Shape(
    name="SmolLM2-135M",
    kind=transformers.LlamaConfig,
    sizes={
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "tie_word_embeddings": True,
    },
    goal=0.2,
)
MIDDLE = Shape(
    name="Qwen2.5-1.5B",
    kind=transformers.Qwen2Config,
    sizes={
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "tie_word_embeddings": True,
    },
    goal=0.6,
)
LARGE = Shape(
    name="Llama-3.1-8B",
    kind=transformers.LlamaConfig,
    sizes={
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_parameters": _LLAMA_3,
    },
    goal=0.8,
)
"""Sizes from the config.json of HuggingFaceTB/SmolLM2-135M, Qwen/Qwen2.5-1.5B and
meta-llama/Llama-3.1-8B."""


def make_model(
    shape: Shape, device: torch.device, dtype: torch.dtype, dry: bool
) -> PreTrainedModel:
    """A model of random weights in eval mode; speed does not depend on their values."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(shape.config(dry), dtype=dtype)
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    made: PreTrainedModel = model.eval()
    return made


def workload(dry: bool, new_tokens: int) -> PathsWorkload:
    """1,024 shared tokens, 64 of each of 8 questions, 32 paths each."""
    if dry:
        return PathsWorkload(
            prefix_tokens=24, question_tokens=5, questions=2, paths=3, new_tokens=new_tokens
        )
    return PathsWorkload(
        prefix_tokens=1024, question_tokens=64, questions=8, paths=32, new_tokens=new_tokens
    )


def prompts_of(work: PathsWorkload, vocab: int) -> list[list[int]]:
    """Random prompts behind one shared prefix."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        drawn: list[int] = torch.randint(3, vocab, (count,), generator=generator).tolist()
        return drawn

    prefix = draw(work.prefix_tokens)
    return [prefix + draw(work.question_tokens) for _ in range(work.questions)]
