"""Weights on disk: final checkpoints, training states, and what identifies a model."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from fastsi.data.manifest import atomic_folder, atomic_write
from fastsi.errors import ArtifactError

_SAMPLED_VALUES = 1024


def fingerprint(model: nn.Module) -> str:
    """A hash of the names, shapes and a spread of values of all parameters and buffers.

    A run is resumed only with the model it began with; hashing a sample keeps this instant for
    models of any size.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLED_VALUES)
        values = flat[::step][:_SAMPLED_VALUES].to(torch.float64).cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def save_checkpoint(model: nn.Module, tokenizer: Any, path: Path) -> None:
    """Write a folder that ``from_pretrained`` loads (weights, config, tokenizer), atomically.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    with _quiet(), atomic_folder(path) as folder, _disk_errors(), _unquantized(model):
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Copy a checkpoint's weights into the live module, whose parameters stay the same objects.

    Loading goes through ``from_pretrained``, because saved names may differ from the module's
    (tied weights are stored once, experts of a mixture separately). An adapter (PEFT) is saved and
    loaded without the model it adapts.

    Raises:
        ArtifactError: the folder is no checkpoint of this model.
    """
    try:
        if hasattr(model, "get_base_model"):
            _load_adapter(model, path)
            return
        with _quiet():
            stored = type(model).from_pretrained(  # type: ignore[attr-defined]
                path, dtype=model.dtype, local_files_only=True
            )
        model.load_state_dict(stored.state_dict())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot load the checkpoint: {error}") from error


def _load_adapter(model: nn.Module, path: Path) -> None:
    from peft import load_peft_weights, set_peft_model_state_dict  # an optional dependency

    set_peft_model_state_dict(model, load_peft_weights(str(path), device="cpu"))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state (tensors and plain values), atomically.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with atomic_write(path) as temporary, _Disk(io.FileIO(temporary, "w")) as file:
        try:
            torch.save(state, file)
        except RuntimeError:
            if file.error is None:
                raise
            raise file.error from None


def load_state(path: Path, identity: str) -> dict[str, Any] | None:
    """The state at ``path`` if it is there and was saved by the training called ``identity``.

    Raises:
        ArtifactError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises pickle, zip, runtime and key errors alike
        raise ArtifactError(f"{path}: damaged training state; delete it ({error})") from error
    return state if state.get("identity") == identity else None


@contextlib.contextmanager
def _unquantized(model: nn.Module) -> Iterator[None]:
    """Hide marks that a model dequantised at load (from GGUF, say) still carries.

    transformers refuses to save a model whose config names a quantization it cannot write, though
    the weights are plain floating point by now.
    """
    config: Any = model.config
    mark = config.__dict__.pop("quantization_config", None)
    quantizer = model.__dict__.pop("hf_quantizer", None)
    try:
        yield
    finally:
        if mark is not None:
            config.quantization_config = mark
        if quantizer is not None:
            model.__dict__["hf_quantizer"] = quantizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers' own: a checkpoint is one unit of a phase."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Make an OSError again of what libraries in Rust report in words, such as a full disk.

    safetensors raises its own error, tokenizers a plain Exception; both quote "(os error 28)".
    """
    try:
        yield
    except Exception as error:
        quoted = re.search(r"os error (\d+)", str(error))
        if isinstance(error, OSError) or quoted is None:
            raise
        raise OSError(int(quoted[1]), os.strerror(int(quoted[1]))) from error


class _Disk(io.BufferedWriter):
    """A file that remembers why writing failed: torch.save reports only that something did."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise
