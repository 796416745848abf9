"""Everything that must be shown on a GPU, in one run of under nine minutes.

Correctness comes first (the tests on the device, compute-sanitizer where it is installed), then
the machine's copy and matrix rates, then every measurement as a share of them. Models are random
weights of real shapes, made on the device: no file and no network are needed. A section that fails
is recorded with its error, one that runs out of time says so, and the others go on.

    python benchmarks/gpu/run_all.py                 # on a machine with a GPU
    python benchmarks/gpu/run_all.py --write         # and write benchmarks/results/gpu_*.md
    python benchmarks/gpu/run_all.py --dry-run       # toy sizes on a CPU, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parents[0] / name) for name in ("", "engine", "ops"))]
if "--dry-run" in sys.argv:  # before any kernel is made
    os.environ["TRITON_INTERPRET"] = "1"

import _checks
import _engine_sections
import _op_sections
import _sampling_section
import torch
from _harness import versions
from _measure import Context, OutOfTime, Row, limit
from rich.console import Console
from rich.table import Table

MINUTES = 8.8
"""Time of the whole run, minutes."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the run; sections run in order."""

    name: str
    run: Callable[[Context], None]
    seconds: float
    """Most it may take."""


SECTIONS = (
    Section("tests", _checks.tests_on_device, 155),
    Section("sanitizer", _checks.sanitizer, 80),
    Section("rates", _op_sections.rates, 10),
    Section("segment_attention", _op_sections.segment_attention, 60),
    Section("sample_tokens", _sampling_section.sample_tokens, 28),
    Section("decode 8B", _engine_sections.decode_large, 110),
    Section("greedy", _engine_sections.greedy, 45),
    Section("deterministic", _engine_sections.deterministic, 60),
    Section("decode 1.5B", _engine_sections.decode_middle, 60),
    Section("decode 135M", _engine_sections.decode_small, 50),
    Section("fused ops", _op_sections.fused_ops, 25),
    Section("linear", _op_sections.linears, 40),
    Section("match_stop", _op_sections.match_stop, 10),
    Section("advance_rows", _op_sections.advance_rows, 10),
    Section("crossover", _op_sections.crossover, 60),
)
"""The most telling measurements first, so that a slow machine loses the others."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    made = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--dry-run", action="store_true", help="toy sizes on a CPU")
    made.add_argument("--minutes", type=float, default=MINUTES, help=f"default: {MINUTES}")
    made.add_argument(
        "--only", nargs="+", metavar="SECTION", choices=[s.name for s in SECTIONS], help="some"
    )
    made.add_argument(
        "--write", action="store_true", help="write benchmarks/results/gpu_DEVICE_DATE.md"
    )
    made.add_argument("--json-out", type=Path, help="also append the JSON line to this file")
    return made


def run_section(section: Section, context: Context) -> None:
    """Run one section; whatever it runs into becomes a row."""
    left = context.deadline - time.monotonic()
    if left <= 1:
        context.add(section.name, "skipped: out of time")
        return
    print(f"-- {section.name}", file=sys.stderr, flush=True)
    begin = time.monotonic()
    try:
        # Toy sizes on a busy machine may take any time; only a GPU's is measured.
        with limit(left if context.dry else min(left, section.seconds)):
            section.run(context)
    except OutOfTime:
        context.add(section.name, f"skipped: out of time after {time.monotonic() - begin:.0f} s")
    except (Exception, SystemExit) as error:  # the rest is still worth measuring
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        context.add(
            section.name,
            f"FAILED: {type(error).__name__}: {first[:120]}",
            met=False,
            error=traceback.format_exc()[-4000:],
        )
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def table(rows: Sequence[Row], title: str) -> Table:
    """The table for people."""
    view = Table(title=title, title_justify="left")
    for column in ("measure", "value", "goal", ""):
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(row.measure, row.value, row.goal, row.verdict)
    return view


def as_json(context: Context, device: str, seconds: float) -> dict[str, Any]:
    """The object of the last line."""
    return {
        "device": device,
        "dry_run": context.dry,
        "date": date.today().isoformat(),
        "seconds": seconds,
        "rows": [
            {"measure": r.measure, "value": r.value, "goal": r.goal, "met": r.met, **r.data}
            for r in context.rows
        ],
        "versions": versions(),
        "command": shlex.join(sys.argv),
    }


def markdown(context: Context, device: str, line: str) -> str:
    """The page for benchmarks/results/."""
    cells = "\n".join(f"| {r.measure} | {r.value} | {r.goal} | {r.verdict} |" for r in context.rows)
    return (
        f"# All measurements on {device}, {date.today().isoformat()}\n\n"
        f"`{shlex.join(sys.argv)}`\n\n| measure | value | goal | |\n|---|---|---|---|\n{cells}\n\n"
        f"```json\n{line}\n```\n"
    )


def result_path(device: str) -> Path:
    """benchmarks/results/gpu_DEVICE_DATE.md."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return HERE.parents[0] / "results" / f"gpu_{name}_{date.today().isoformat()}.md"


def main() -> None:
    """Run the sections and print what they found."""
    args = parser().parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        print("run_all: torch finds no CUDA GPU here; --dry-run runs toy sizes on a CPU",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(2)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    begin = time.monotonic()
    context = Context(
        device=torch.device("cpu" if args.dry_run else "cuda"),
        dry=args.dry_run,
        dtype=torch.bfloat16,
        deadline=begin + 60 * args.minutes,
    )
    device = "dry run on a CPU" if context.dry else torch.cuda.get_device_name()
    for section in SECTIONS:
        if args.only is None or section.name in args.only:
            run_section(section, context)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    console.print(table(context.rows, f"{device}: {time.monotonic() - begin:.0f} s"))
    line = json.dumps(as_json(context, device, time.monotonic() - begin))
    if args.json_out is not None:
        with args.json_out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    if args.write and not context.dry:
        result_path(device).write_text(markdown(context, device, line), encoding="utf-8")
    print(line, flush=True)


if __name__ == "__main__":
    main()
