"""What the op benchmarks share: the check against the reference, and the floor."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import torch
from _harness import Floor, Rates, Result, add_arguments, machine_rates, measure_short, report

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
GPU_BACKENDS = {"cpu": ("cpu",), "cuda": ("triton",)}
"""Backends of ours to time, by device."""
# Largest difference from the float64 reference, as a share of its largest value.
ALLOWED = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 2e-2}

Tensors = tuple[torch.Tensor, ...]


def parser(
    doc: str | None, devices: Sequence[str] = ("cpu", "cuda"), **sizes: tuple[int, int, str]
) -> argparse.ArgumentParser:
    """A parser with one integer option per size, (default, quick default, help), and --device."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    for name, (value, quick, text) in sizes.items():
        flag = "--" + name.replace("_", "-")
        made.add_argument(flag, type=int, help=f"{text} (default: {value}, quick: {quick})")
    made.add_argument("--dtype", choices=DTYPES, default="float32", help="element type")
    made.add_argument("--device", choices=devices, default="cpu", help="default: cpu")
    add_arguments(made)
    made.set_defaults(sizes=sizes)
    return made


def fill_sizes(args: argparse.Namespace) -> dict[str, int]:
    """The sizes asked for, defaults filled in.

    Raises:
        SystemExit: a size is below 1.
    """
    found = {}
    for name, (value, quick, _) in args.sizes.items():
        given = getattr(args, name)
        found[name] = (quick if args.quick else value) if given is None else given
        if found[name] < 1:
            raise SystemExit(f"--{name.replace('_', '-')}={found[name]}: must be at least 1")
    return found


def check(
    providers: Mapping[str, Callable[[], Tensors]],
    truth: Tensors,
    dtype: torch.dtype,
    allowed: float | None = None,
) -> dict[str, float]:
    """Largest relative difference of every provider from the float64 result.

    Args:
        allowed: the difference that is too large; None: by ``dtype``.

    Raises:
        SystemExit: a provider is wrong; its time would mean nothing.
    """
    limit = ALLOWED[dtype] if allowed is None else allowed
    found = {}
    for name, run in providers.items():
        worst = 0.0
        for got, want in zip(run(), truth, strict=True):
            scale = want.abs().max().clamp(min=1e-30)
            worst = max(worst, float((got.double() - want).abs().max() / scale))
        if not worst <= limit:
            raise SystemExit(f"{name}: differs from the reference by {worst:.3g}; not timed")
        found[name] = worst
    return found


def finish(
    args: argparse.Namespace,
    title: str,
    workload: Mapping[str, object],
    providers: Mapping[str, Callable[[], object]],
    *,
    rows: int,
    flops: float,
    moved: float,
    note: str,
    differences: Mapping[str, float],
) -> None:
    """Time the providers, the first as baseline, and print table and JSON line.

    Args:
        flops: floating-point operations the work cannot do without.
        moved: bytes it must read plus bytes it must write.
    """
    rates: Rates = machine_rates(DTYPES[args.dtype], args.device, quick=args.quick)
    seconds = max(flops / rates.flops_per_s, moved / rates.bytes_per_s)
    result = Result(
        workload=dict(workload) | {"dtype": args.dtype, "device": args.device},
        timings=measure_short(
            providers, repeats=args.repeats, min_seconds=0.005 if args.quick else 0.2
        ),
        baseline=next(iter(providers)),
        tokens=rows,
        floor=Floor(seconds=seconds, flops=flops, bytes=moved, rates=rates, note=note),
        details={"difference_from_float64": dict(differences)},
    )
    report(result, title=title, json_out=args.json_out)
