"""The only importer of the compiled modules; keeps the reason when one is absent."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from fastsi import env


@functools.cache
def load(name: str) -> tuple[ModuleType | None, str | None]:
    """Import ``fastsi.<name>`` once: the module and None, or None and why it is missing."""
    try:
        module = importlib.import_module(f"fastsi.{name}")
    except ImportError as error:
        return None, f"fastsi.{name} is not importable: {error}"
    if name == "_C":
        module.set_isa(env.get(env.ISA))
    return module, None


def core() -> ModuleType:
    """The C++ module ``_C``.

    Raises:
        ImportError: the package was not built; the message says how to build it.
    """
    module, reason = load("_C")
    if module is None:
        raise ImportError(f"{reason}; build it with: pip install .")
    return module
