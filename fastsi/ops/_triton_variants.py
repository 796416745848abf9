"""Compiling Triton kernels ahead of time, on a machine without a GPU.

A module ``fastsi/ops/NAME/_triton.py`` lists in ``VARIANTS`` the specialisations that its launches
use at real sizes. `resources` compiles one to machine code and says what it takes of a streaming
multiprocessor, so a test can require that nothing spills and shared memory suffices.

Kernels are compiled, not interpreted: ``TRITON_INTERPRET`` must not be set.

    python -m fastsi.ops._triton_variants segment_attention --capability 90
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastsi.ops._registry import TABLE

SHARED_BYTES = {80: 166_912, 90: 232_448}
"""Shared memory a block may ask for, by compute capability (CUDA C++ Programming Guide, technical
specifications per compute capability: 163 KiB and 227 KiB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One specialisation of a kernel."""

    name: str
    """Unique within its op."""
    kernel: Any
    """The ``triton.jit`` function."""
    signature: Mapping[str, str]
    """Type of every argument, as ``*bf16``, ``i32``, ``fp32`` or ``constexpr``."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Value of every ``constexpr``."""
    divisible: Sequence[str] = ()
    """Pointers and integers that every launch of the variant gives as multiples of 16."""
    num_warps: int = 4
    num_stages: int = 3
    max_registers: Mapping[int, int] = field(default_factory=dict)
    """Registers per thread that launches allow (``maxnreg``), by compute capability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a compiled kernel takes."""

    registers: int
    """Per thread."""
    spilled_bytes: int
    """Local memory per thread: stack and spilled registers."""
    shared_bytes: int
    """Per block."""
    tensor_core_instructions: int
    """``mma`` and ``wgmma`` in the PTX."""


def resources(variant: Variant, capability: int) -> Resources:
    """Compile ``variant`` for sm_80 or sm_90 and read its use of resources.

    Args:
        variant: what to compile.
        capability: 80 or 90.

    Raises:
        triton.CompilationError: the kernel cannot be compiled for it.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(variant.signature)
    source = ASTSource(
        fn=variant.kernel,
        signature=dict(variant.signature),
        constexprs=dict(variant.constants),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible},
    )
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    if capability in variant.max_registers:
        options["maxnreg"] = variant.max_registers[capability]
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return Resources(
        registers=used["REG"],
        spilled_bytes=used["STACK"] + used["LOCAL"],
        shared_bytes=made.metadata.shared,
        tensor_core_instructions=len(re.findall(r"^\s*(?:mma|wgmma)\.", made.asm["ptx"], re.M)),
    )


def variants(op: str) -> Sequence[Variant]:
    """The variants of an op; none if it has no Triton backend."""
    for row in TABLE:
        if row.op == op and row.backend == "triton":
            found: Sequence[Variant] = importlib.import_module(row.module).VARIANTS
            return found
    return ()


def main() -> None:
    """Compile the variants of one op and print one JSON object: name to resources."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("op")
    parser.add_argument("--capability", type=int, choices=sorted(SHARED_BYTES), default=90)
    args = parser.parse_args()
    found = {
        one.name: dataclasses.asdict(resources(one, args.capability)) for one in variants(args.op)
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
