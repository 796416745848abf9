"""fastsi: label-free self-improvement of language models.

Sample many reasoning paths per question, vote on the answers, keep the paths that converged,
fine-tune on them, repeat. Public names are imported on first use, so ``import fastsi`` loads
neither torch nor a compiled backend.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsi import errors as errors
    from fastsi import ops as ops
    from fastsi import vote as vote
    from fastsi.api import LLM as LLM
    from fastsi.errors import FastsiError as FastsiError
    from fastsi.types import CompletionOutput as CompletionOutput
    from fastsi.types import Question as Question
    from fastsi.types import RequestOutput as RequestOutput
    from fastsi.types import SamplingParams as SamplingParams
    from fastsi.types import Vote as Vote

_MODULES = ("errors", "ops", "vote")
_NAMES = {
    "LLM": "fastsi.api",
    "FastsiError": "fastsi.errors",
    "CompletionOutput": "fastsi.types",
    "Question": "fastsi.types",
    "RequestOutput": "fastsi.types",
    "SamplingParams": "fastsi.types",
    "Vote": "fastsi.types",
}

__all__ = [*_MODULES, *_NAMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fastsi.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module 'fastsi' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("fastsi")
    except metadata.PackageNotFoundError:  # a source tree on sys.path, never installed
        return "0+unknown"
