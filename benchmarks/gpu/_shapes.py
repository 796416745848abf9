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


def _sizes(
    *,
    vocab: int,
    hidden: int,
    inner: int,
    layers: int,
    heads: tuple[int, int],
    context: int,
    theta: float,
    **more: Any,
) -> dict[str, Any]:
    """Fields of a config; ``heads``: of queries, and of keys and values."""
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "max_position_embeddings": context,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    } | more


_TOY = _sizes(
    vocab=211, hidden=48, inner=64, layers=2, heads=(3, 1), context=512, theta=1e4,
    initializer_range=0.25,
)  # fmt: skip
SMALL = Shape(
    name="SmolLM2-135M",
    kind=transformers.LlamaConfig,
    sizes=_sizes(
        vocab=49152, hidden=576, inner=1536, layers=30, heads=(9, 3), context=8192, theta=1e5,
        tie_word_embeddings=True,
    ),
    goal=0.2,
)  # fmt: skip
MIDDLE = Shape(
    name="Qwen2.5-1.5B",
    kind=transformers.Qwen2Config,
    sizes=_sizes(
        vocab=151936, hidden=1536, inner=8960, layers=28, heads=(12, 2), context=32768, theta=1e6,
        tie_word_embeddings=True,
    ),
    goal=0.6,
)  # fmt: skip
LARGE = Shape(
    name="Llama-3.1-8B",
    kind=transformers.LlamaConfig,
    sizes=_sizes(
        vocab=128256, hidden=4096, inner=14336, layers=32, heads=(32, 8), context=131072, theta=5e5,
    )
    | {"rope_parameters": _LLAMA_3},
    goal=0.8,
)  # fmt: skip
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
