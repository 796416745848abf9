"""``fastsi env``: what this installation is and what it can run."""

from __future__ import annotations

import os
import platform
from typing import Annotated, Any

import typer
from rich.table import Table

from fastsi.cli._output import key_value_table, output

NAME = "env"
HELP = "Versions, instruction set, threads, devices, backends and FASTSI_* variables."


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the environment."""
    with output(as_json) as out:
        record = describe()
        for title in ("versions", "machine", "torch"):
            out.table(key_value_table(title, record[title]))
        out.table(_backends(record["backends"]))
        variables = Table(title="environment variables", title_justify="left")
        for heading in ("variable", "value", "choices", "meaning"):
            variables.add_column(heading, overflow="fold")
        for name, row in record["variables"].items():
            variables.add_row(name, row["value"], row["choices"], row["meaning"])
        out.table(variables)
        out.record(record)


def describe() -> dict[str, Any]:
    """Everything the command shows.

    Raises:
        ConfigError: a FASTSI_* variable has a bad value.
    """
    import torch

    from fastsi import _ext, env
    from fastsi.data.manifest import versions

    variables = {
        variable.name: {
            "value": env.get(variable),
            "choices": "|".join(variable.choices or ("any",)),
            "meaning": variable.meaning,
        }
        for variable in env.ALL
    }
    core, reason = _ext.load("_C")
    cuda, cuda_reason = _ext.load("_C_cuda")
    return {
        "versions": versions(),
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "isa": core.isa() if core is not None else f"none: {reason}",
        },
        "torch": {
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.is_available(),
            "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "cuda_extension": "built" if cuda is not None else f"none: {cuda_reason}",
        },
        "backends": _explanations(),
        "variables": variables,
    }


def _explanations() -> dict[str, str]:
    """Per op, which backend serves float32 tensors on the CPU and on the GPU if there is one."""
    import torch

    from fastsi import ops
    from fastsi.ops import _registry

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        f"{name} on {device}": ops.explain(name, torch.empty(1, device=device))
        for name in _registry.OPS
        for device in devices
    }


def _backends(explanations: dict[str, str]) -> Table:
    table = Table(title="backends (float32)", title_justify="left")
    table.add_column("op")
    table.add_column("decision", overflow="fold")
    for name, text in explanations.items():
        table.add_row(name, text)
    return table
