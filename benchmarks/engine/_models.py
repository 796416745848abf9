"""The models of the engine's benchmarks: files, or random weights of well-known shapes.

Random weights are made where they are used, so a machine needs neither files nor a network. Speed
does not depend on their values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from fastsi.api import BUILTIN, builtin_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_SHAPES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "tiny": (
        transformers.LlamaConfig,
        {
            "vocab_size": 512,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "initializer_range": 0.25,
        },
    ),
    "smollm2-135m": (
        transformers.LlamaConfig,
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2.5-1.5b": (
        transformers.Qwen2Config,
        {
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
        },
    ),
    "llama-3.1-8b": (
        transformers.LlamaConfig,
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rope_parameters": _LLAMA_3,
        },
    ),
}
"""Sizes from the config.json of HuggingFaceTB/SmolLM2-135M, Qwen/Qwen2.5-1.5B and
meta-llama/Llama-3.1-8B; "tiny" is none of anybody's."""
MODEL_HELP = (
    "folder, hub id, .gguf file, 'builtin' (the bundled base model), or random weights of a shape: "
    + ", ".join(_SHAPES)
)


def device_named(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU.

    Raises:
        SystemExit: there is no GPU, and one is asked for.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"error: --device={name}: torch finds no CUDA GPU here")
    return device


def load_model(
    name: str, dtype: torch.dtype, seed: int, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """The model in eval mode on ``device``; all providers use this one."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if name in _SHAPES:
        kind, sizes = _SHAPES[name]
        torch.manual_seed(seed)
        with torch.device(device):
            made = transformers.AutoModelForCausalLM.from_config(kind(**sizes), dtype=dtype)
        model: PreTrainedModel = made.eval()
        return model
    path = builtin_model() if name == BUILTIN else Path(name)
    where: dict[str, Any] = {"pretrained_model_name_or_path": name}
    if path.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    elif path.exists():
        where = {"pretrained_model_name_or_path": path}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
    return loaded.eval().to(device)  # type: ignore[no-any-return]
