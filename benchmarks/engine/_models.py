"""The models of the engine's benchmarks: files, or random weights of well-known shapes.

Random weights are made where they are used, so a machine needs neither files nor a network. Speed
does not depend on their values.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))

import torch
import transformers
from _shapes import LARGE, MIDDLE, SMALL
from transformers import PreTrainedConfig, PreTrainedModel

from fastsi.api import BUILTIN, builtin_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TINY = {
    "vocab_size": 512,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.25,
}
_SHAPES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "tiny": (transformers.LlamaConfig, _TINY)
} | {shape.name.lower(): (shape.kind, shape.sizes) for shape in (SMALL, MIDDLE, LARGE)}
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
