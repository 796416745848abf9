"""From a folder, hub id, GGUF file or live model to a model and a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from fastsi.errors import ConfigError, ModelError, shorten

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_device(device: str | torch.device) -> torch.device:
    """The device a model goes to; "auto" is the first GPU, or the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device={device!r}: not a torch device") from error


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | str:
    """The dtype weights are loaded in.

    "auto" is float32 on a CPU, where products of 16-bit floats are often emulated, and the
    checkpoint's own dtype elsewhere.
    """
    if isinstance(dtype, torch.dtype):
        if dtype not in DTYPES.values():
            raise ConfigError(f"dtype={dtype}: must be one of {', '.join(DTYPES)}")
        return dtype
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r}: must be auto or one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load_model(
    name: str | Path, dtype: str | torch.dtype, device: str | torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load weights and tokenizer.

    Args:
        name: a folder in Hugging Face format, a ``.gguf`` file, or a hub id.
        dtype: "auto", a name, or a torch dtype.
        device: "auto", a name, or a torch device.

    Raises:
        ModelError: missing, unreadable or damaged files.
    """
    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    where, extra = _locate(name)
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(where, **extra)
            model = AutoModelForCausalLM.from_pretrained(where, dtype=kind, **extra)
    except Exception as error:  # every library underneath raises its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load model {str(name)!r}: {first}") from error
    _forget_quantization(model)
    return model.to(target).eval(), tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings and progress bar of loading."""
    level, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bar:
            hf_logging.enable_progress_bar()


def _locate(name: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model file {str(name)!r} does not exist")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"model folder {str(name)!r} has no config.json")
        return str(path), {}
    looks_local = path.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1
    if looks_local or path.exists():
        raise ModelError(f"model folder {str(name)!r} does not exist")
    if not str(name).strip():
        raise ModelError(f"model name {shorten(str(name))} is empty")
    return str(name), {}


def _forget_quantization(model: PreTrainedModel) -> None:
    """Weights read from GGUF are plain floats, but the config still says they are quantised.

    transformers would refuse to save or train such a model.
    """
    if getattr(model.config, "quantization_config", None) is None:
        return
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and "gguf" not in type(quantizer).__name__.lower():
        return
    del model.config.quantization_config
    model.hf_quantizer = None
    for flag in ("is_quantized", "quantization_method"):
        if hasattr(model, flag):
            delattr(model, flag)
