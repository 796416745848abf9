"""What every benchmark shares: check, warm up, time interleaved, print a table and one JSON line.

A benchmark builds one callable per provider, checks their results against each other, and calls
`measure` and `report`. Times of different machines, or of one machine at different moments, do not
compare; so providers take turns within one run, medians are reported, and every time is shown as a
ratio to the baseline and, where a floor is known, as a share of it. The floor uses the matrix and
copy rates of `machine_rates`, measured in the same run.

Scripts in benchmarks/*/ import it after putting its folder on the path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fastsi import ops

Run = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Wall times of one provider."""

    samples: list[float]
    """Seconds of each repeat, in order."""

    @property
    def seconds(self) -> float:
        """Median."""
        return statistics.median(self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the machine does at its best, in one dtype."""

    flops_per_s: float
    """Floating-point operations per second of a large matrix product (2 per multiply-add)."""
    bytes_per_s: float
    """Bytes read plus bytes written per second of a large copy."""
    dtype: str
    """Element type of the matrix product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Time below which no implementation can go, by operations and bytes at measured rates."""

    seconds: float
    flops: float
    bytes: float
    rates: Rates
    note: str = ""
    """What is counted."""


@dataclass(slots=True, kw_only=True)
class Result:
    """Everything a benchmark found out; `report` prints it."""

    workload: dict[str, Any]
    """Sizes and settings that define the work."""
    timings: dict[str, Timing]
    """By provider; the baseline first."""
    baseline: str
    """Provider that ratios refer to."""
    tokens: float | None = None
    """Tokens (rows) each provider produces per run; None: no rate is shown."""
    floor: Floor | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """Anything else for the JSON line: agreement found by the check, phase times."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options every benchmark has."""
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--repeats", type=int, default=None, help="timed runs per provider (default: 3, quick: 1)"
    )
    group.add_argument(
        "--threads", type=int, default=None, help="CPU threads (default: torch's choice)"
    )
    group.add_argument(
        "--quick", action="store_true", help="tiny sizes, for a check that the benchmark works"
    )
    group.add_argument("--json-out", type=Path, help="also append the JSON line to this file")


def start(args: argparse.Namespace) -> None:
    """Apply the common options; call before building models.

    Raises:
        SystemExit: a value is out of range.
    """
    if args.repeats is None:
        args.repeats = 1 if args.quick else 3
    if args.repeats < 1:
        raise SystemExit(f"--repeats={args.repeats}: must be at least 1")
    if args.threads is not None:
        if args.threads < 1:
            raise SystemExit(f"--threads={args.threads}: must be at least 1")
        torch.set_num_threads(args.threads)


def synchronize() -> None:
    """Wait for queued device work, so that wall times mean something."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed(run: Run) -> float:
    """Seconds one call takes, device work included."""
    synchronize()
    begin = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - begin


def measure(
    providers: Mapping[str, Run],
    *,
    repeats: int,
    warmup: int = 1,
    before: Run | None = None,
    log: bool = True,
) -> dict[str, Timing]:
    """Time providers in turns.

    Each repeat starts with another provider, so that none always runs on the machine that the same
    other one left behind (caches, clock rate).

    Args:
        providers: name to a callable that does the whole work once.
        repeats: timed rounds.
        warmup: untimed rounds before them.
        before: called untimed before every run, e.g. to empty a cache.
        log: say on standard error what runs.
    """
    names = list(providers)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            if before is not None:
                before()
            seconds = timed(providers[name])
            if turn >= warmup:
                samples[name].append(seconds)
            if log:
                kind = "warm-up" if turn < warmup else f"run {turn - warmup + 1}/{repeats}"
                print(f"{kind}: {name} {seconds:.4g} s", file=sys.stderr, flush=True)
    return {name: Timing(samples=values) for name, values in samples.items()}


def measure_short(
    providers: Mapping[str, Run], *, repeats: int, min_seconds: float = 0.05
) -> dict[str, Timing]:
    """`measure` for work of micro- to milliseconds: each sample is the mean of many calls."""
    inner = {}
    for name, run in providers.items():
        run()
        inner[name] = max(1, int(min_seconds / max(timed(run), 1e-7)))

    def loop(run: Run, count: int) -> Run:
        def many() -> None:
            for _ in range(count):
                run()

        return many

    loops = {name: loop(run, inner[name]) for name, run in providers.items()}
    timings = measure(loops, repeats=repeats, warmup=1, log=False)
    return {
        name: Timing(samples=[value / inner[name] for value in timing.samples])
        for name, timing in timings.items()
    }


def machine_rates(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", *, quick: bool = False
) -> Rates:
    """Best of several large matrix products and copies on this machine, now.

    The copy is far larger than any cache; the product is large enough for the library's best
    kernel. On a CPU in float32 the project's own product is timed too and the faster one counts:
    torch's library leaves half of some processors' vector units idle, and floors by its rate would
    flatter. ``quick`` uses small sizes, whose rates are not the machine's.
    """
    # A GPU needs a larger product, and a copy beyond its cache of 50 MB, to reach its rates.
    full = (8192, 1 << 28, 5) if torch.device(device).type == "cuda" else (2048, 1 << 26, 5)
    size, elements, tries = (256, 1 << 20, 2) if quick else full
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty_like(left)
    source = torch.zeros(elements, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def best(run: Run) -> float:
        run()
        return min(timed(run) for _ in range(tries))

    seconds = best(lambda: torch.mm(left, right, out=product))
    if product.device.type == "cpu" and dtype == torch.float32:
        packed = ops.pack_weight([right])
        seconds = min(seconds, best(lambda: ops.linear(left, packed, out=product)))
    return Rates(
        flops_per_s=2 * size**3 / seconds,
        bytes_per_s=2 * source.nbytes / best(lambda: target.copy_(source)),
        dtype=str(dtype).removeprefix("torch."),
    )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the processor."""
    found = {"python": platform.python_version()}
    for name in ("fastsi", "torch", "transformers", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["cpu"] = _cpu_name()
    found["threads"] = str(torch.get_num_threads())
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    for variable in ("FASTSI_ISA", "FASTSI_BACKEND"):
        if os.environ.get(variable):
            found[variable] = os.environ[variable]
    return found


def _cpu_name() -> str:
    """Model name and the vector extensions that decide which kernels run."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    text = info.read_text(encoding="utf-8")
    name = next((t.split(":")[1].strip() for t in text.splitlines() if "model name" in t), "cpu")
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in text]
    return f"{name} ({', '.join(has) or 'no AVX2'})"


def as_json(result: Result) -> dict[str, Any]:
    """The object of the last line; the keys are a contract."""
    base = result.timings[result.baseline].seconds
    providers = {}
    for name, timing in result.timings.items():
        rate = None if result.tokens is None else result.tokens / timing.seconds
        providers[name] = {
            "seconds": timing.seconds,
            "tokens_per_s": rate,
            "samples": timing.samples,
        }
    floor = None
    if result.floor is not None:
        shares = {name: result.floor.seconds / t.seconds for name, t in result.timings.items()}
        floor = dataclasses.asdict(result.floor) | {"share": shares}
    return {
        "workload": result.workload,
        "baseline": result.baseline,
        "providers": providers,
        "ratios": {name: base / t.seconds for name, t in result.timings.items()},
        "floor": floor,
        "details": result.details,
        "versions": versions(),
        "command": shlex.join(sys.argv),
    }


def table(result: Result, title: str) -> Table:
    """The same for people: baseline first, ratio above 1 is faster than the baseline."""
    view = Table(title=title, title_justify="left")
    view.add_column("provider")
    view.add_column("median", justify="right")
    view.add_column("spread", justify="right")
    if result.tokens is not None:
        view.add_column("tokens/s", justify="right")
    view.add_column(f"x {result.baseline}", justify="right")
    if result.floor is not None:
        view.add_column("of floor", justify="right")
    base = result.timings[result.baseline].seconds
    order = sorted(result.timings, key=lambda name: name != result.baseline)
    for name in order:
        timing = result.timings[name]
        spread = (max(timing.samples) - min(timing.samples)) / timing.seconds
        row = [name, _time(timing.seconds), f"{spread:.0%}"]
        if result.tokens is not None:
            row.append(f"{result.tokens / timing.seconds:.1f}")
        row.append(f"{base / timing.seconds:.2f}")
        if result.floor is not None:
            row.append(f"{result.floor.seconds / timing.seconds:.0%}")
        view.add_row(*row)
    return view


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def report(result: Result, *, title: str, json_out: Path | None = None) -> None:
    """Print the table, the rates behind the floor, and the JSON object as the last line."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100)
    console.print(table(result, title))
    if result.floor is not None:
        rates, floor = result.floor.rates, result.floor
        print(
            f"floor {_time(floor.seconds)}: {floor.flops / 1e9:.3g} GFLOP at "
            f"{rates.flops_per_s / 1e9:.4g} GFLOP/s ({rates.dtype}), {floor.bytes / 1e9:.3g} GB at "
            f"{rates.bytes_per_s / 1e9:.3g} GB/s{'; ' + floor.note if floor.note else ''}"
        )
    line = json.dumps(as_json(result))
    if json_out is not None:
        with json_out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    print(line, flush=True)
