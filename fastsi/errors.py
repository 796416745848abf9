"""Every exception that fastsi raises on purpose.

A message says what is wrong, where (file and line, or argument name), which value, and what to do.
The command line prints the message alone and exits with code 2; a traceback is a bug.
"""

from __future__ import annotations

from pathlib import Path


class FastsiError(Exception):
    """Base class: everything a caller may want to catch and show to a person."""


class ConfigError(FastsiError, ValueError):
    """A setting has a bad value or an unknown name."""


class DataError(FastsiError, ValueError):
    """An input file is malformed.

    Args:
        message: what is wrong and, where it helps, what to do.
        path: the file.
        line: 1-based line number, where one applies.
        field: name of the offending field, where one applies.
        value: the offending value; long ones are shortened.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        value: object = None,
    ) -> None:
        place = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        name = "" if field is None else f"field {field!r}: "
        shown = "" if value is None else f" (got {shorten(value)})"
        super().__init__(f"{place}{name}{message}{shown}")
        self.path, self.line, self.field, self.value = path, line, field, value


class ModelError(FastsiError, ValueError):
    """A model cannot be loaded, or uses a feature the engine cannot run."""


class PromptTooLong(FastsiError, ValueError):
    """A prompt does not fit the model's context or the KV cache."""


class CacheFull(FastsiError, RuntimeError):
    """The KV cache cannot hold even one path of the request."""


class BackendUnavailable(FastsiError, RuntimeError):
    """An explicitly requested backend cannot run; the message lists every backend's reason."""


class NumericalError(FastsiError, ArithmeticError):
    """Logits are NaN, or no token has a finite logit."""


class ArtifactError(FastsiError, RuntimeError):
    """A run folder is damaged, belongs to another config, or cannot be written."""


class TemplateCollapse(FastsiError, RuntimeError):
    """The same answer wins on too many different questions: a round would teach a constant."""


def shorten(value: object, limit: int = 80) -> str:
    """``repr(value)`` cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
