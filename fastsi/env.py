"""All environment variables fastsi reads: name, meaning, default, check. A bad value raises.

``python -m fastsi.env`` prints them with their current values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from fastsi.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One environment variable."""

    name: str
    """Name, with the ``FASTSI_`` prefix."""
    default: str
    """Value used when the variable is unset or empty."""
    choices: tuple[str, ...] | None
    """Allowed values; None allows any string."""
    meaning: str
    """One sentence for people."""


ISA = Variable(
    name="FASTSI_ISA",
    default="auto",
    choices=(
        "auto",
        "portable",
        "avx2",
        "avx2_vnni",
        "avx512",
        "avx512_vnni",
        "avx512_bf16",
        "amx",
    ),
    meaning="Instruction set of the C++ kernels; auto takes the widest this CPU has.",
)
BACKEND = Variable(
    name="FASTSI_BACKEND",
    default="auto",
    choices=("auto", "reference", "cpu", "triton", "cuda"),
    meaning="Backend of every op; auto picks by the tensors' device, another value must work.",
)
ALL = (ISA, BACKEND)


def get(variable: Variable) -> str:
    """The variable's value, checked.

    Raises:
        ConfigError: the value is not one of ``variable.choices``.
    """
    value = os.environ.get(variable.name) or variable.default
    if variable.choices is not None and value not in variable.choices:
        raise ConfigError(
            f"environment variable {variable.name}={value!r}: must be one of "
            + ", ".join(variable.choices)
        )
    return value


def main() -> None:
    """Print every variable with its value."""
    for variable in ALL:
        choices = "|".join(variable.choices or ("any",))
        print(f"{variable.name}={get(variable)}  [{choices}]  {variable.meaning}")


if __name__ == "__main__":
    main()
