"""How the engine's time grows with the shared prefix, the number of paths, and threads.

Three sweeps over one model, each point beside the floor (`_floor.py`, with this run's matrix and
copy rates) and the no-attention ceiling (the same engine with attention left out):

prefix   shared prefix of 256 to 8,192 tokens, 8 questions x 32 paths
paths    1 to 128 paths per question, 1,024 shared tokens, 8 questions
threads  1 and all threads, 1,024 shared tokens, 8 questions x 32 paths

Prefill is part of every time. Peak KV memory is given as tokens held, beside what one copy of the
prefix, of each question and of each path takes. With --plot the curves are drawn as an SVG file.

Example:
    python benchmarks/engine/bench_scaling.py --model FILE.gguf --sweeps prefix paths --plot s.svg
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from _floor import PathsWorkload, decode_floor, describe
from _harness import Rates, machine_rates, timed, versions
from _models import DTYPES, MODEL_HELP, device_named, load_model
from bench_sample_paths import CEILING, Engine, make_prompts
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

PREFIXES = (256, 512, 1024, 2048, 4096, 8192)
PATHS = (1, 2, 4, 8, 16, 32, 64, 128)
Point = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    result = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--model", default="builtin", help=f"{MODEL_HELP} (default: builtin)")
    add("--device", default="auto", help="auto (the first GPU, or the CPU), cpu or cuda")
    add("--dtype", choices=sorted(DTYPES), help="default: float32 on a CPU, bfloat16 on a GPU")
    add("--sweeps", nargs="+", choices=["prefix", "paths", "threads"],
        help="default: all; threads only on a CPU")  # fmt: skip
    add("--questions", type=int, default=8, metavar="N", help="prompts (default: 8)")
    add("--question-tokens", type=int, default=60, metavar="N", help="default: 60")
    add("--new-tokens", type=int, default=32, metavar="N", help="tokens per path (default: 32)")
    add("--temperature", type=float, default=0.7, help="default: 0.7")
    add("--repeats", type=int, default=1, help="timed runs per point; the median counts")
    add("--seed", type=int, default=0, help="of prompts and paths (default: 0)")
    add("--quick", action="store_true", help="two tiny points per sweep")
    add("--plot", type=Path, help="draw the curves into this file (.svg or .png)")
    add("--json-out", type=Path, help="also append the JSON line to this file")
    return result


def measure_point(
    model: PreTrainedModel, args: argparse.Namespace, work: PathsWorkload, rates: Rates
) -> Point:
    """Median seconds with and without attention, share of the floor, and KV memory."""
    own = copy.copy(args)
    for name, value in dataclasses.asdict(work).items():
        setattr(own, name, value)
    prompts = make_prompts(own, model)
    if own.prefix_tokens != work.prefix_tokens:
        raise SystemExit(f"error: a prefix of {work.prefix_tokens} tokens exceeds the context")
    seconds = {}
    stats: dict[str, Any] = {}
    for name in ("fastsi", CEILING):
        engine = Engine(model, name, own)
        engine.run(prompts[:1], 2, 2, greedy=False)
        engine.llm.reset_stats()

        def run(engine: Engine = engine) -> object:
            return engine.run(prompts, work.paths, work.new_tokens, greedy=False)

        seconds[name] = statistics.median(timed(run) for _ in range(args.repeats))
        stats[name] = engine.llm.stats()
    floor = decode_floor(model.config, work, rates, dtype=model.dtype)
    tokens = work.questions * work.paths * work.new_tokens
    point = dataclasses.asdict(work) | {
        "threads": torch.get_num_threads(),
        "seconds": seconds["fastsi"],
        "ceiling_seconds": seconds[CEILING],
        "floor_seconds": floor.seconds,
        "tokens_per_s": tokens / seconds["fastsi"],
        "share_of_floor": floor.seconds / seconds["fastsi"],
        "kv_tokens_peak": stats["fastsi"]["peak_pages"] * 16,
        "kv_tokens_once": work.kept_tokens(),
    }
    print(
        f"prefix {work.prefix_tokens}, {work.paths} paths, {point['threads']} threads: "
        f"{point['seconds']:.3g} s, {point['share_of_floor']:.0%} of the floor",
        file=sys.stderr,
        flush=True,
    )
    return point


def sweep(name: str, model: PreTrainedModel, args: argparse.Namespace) -> list[Point]:
    """All points of a sweep."""

    def work(prefix: int, paths: int) -> PathsWorkload:
        return PathsWorkload(
            prefix_tokens=prefix,
            question_tokens=args.question_tokens,
            questions=args.questions,
            paths=paths,
            new_tokens=args.new_tokens,
        )

    room = model.config.get_text_config().max_position_embeddings
    room -= args.question_tokens + args.new_tokens
    prefixes, counts = ((32, 64), (1, 4)) if args.quick else (PREFIXES, PATHS)
    standard = min(64 if args.quick else 1024, room)
    most = torch.get_num_threads()
    if name == "threads":
        points = []
        for threads in (1, most):
            torch.set_num_threads(threads)
            rates = machine_rates(model.dtype, quick=args.quick)
            points.append(measure_point(model, args, work(standard, counts[-3:][0]), rates))
        return points
    rates = machine_rates(model.dtype, model.device, quick=args.quick)
    if name == "prefix":
        paths = 4 if args.quick else 32
        fitting = sorted({min(prefix, room) for prefix in prefixes})
        return [measure_point(model, args, work(prefix, paths), rates) for prefix in fitting]
    return [measure_point(model, args, work(standard, count), rates) for count in counts]


def show(name: str, points: list[Point]) -> None:
    """Print one sweep."""
    view = Table(title=name, title_justify="left")
    columns = ("prefix", "paths", "threads", "s", "tokens/s", "of floor", "no-attention s")
    for column in (*columns, "KV tokens", "one copy each"):
        view.add_column(column, justify="right")
    for point in points:
        view.add_row(
            str(point["prefix_tokens"]),
            str(point["paths"]),
            str(point["threads"]),
            f"{point['seconds']:.3g}",
            f"{point['tokens_per_s']:.0f}",
            f"{point['share_of_floor']:.0%}",
            f"{point['ceiling_seconds']:.3g}",
            f"{point['kv_tokens_peak']:,}",
            f"{point['kv_tokens_once']:,}",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(view)


def draw(found: dict[str, list[Point]], file: Path) -> None:
    """Tokens per second over the prefix and over the paths, with both ceilings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sweeps = [name for name in ("prefix", "paths") if name in found]
    figure, axes = pyplot.subplots(1, len(sweeps), figsize=(5.5 * len(sweeps), 4), squeeze=False)
    labels = {"prefix": "shared prefix, tokens", "paths": "paths per question"}
    for axis, name in zip(axes[0], sweeps, strict=True):
        points = found[name]
        key = "prefix_tokens" if name == "prefix" else "paths"
        over = [point[key] for point in points]
        tokens = [p["questions"] * p["paths"] * p["new_tokens"] for p in points]
        for field, label, style in (
            ("seconds", "fastsi", "o-"),
            ("ceiling_seconds", "without attention", "s--"),
            ("floor_seconds", "floor", "k:"),
        ):
            rates = [count / p[field] for count, p in zip(tokens, points, strict=True)]
            axis.plot(over, rates, style, label=label)
        axis.set(xscale="log", xlabel=labels[name], ylabel="tokens/s", ylim=(0, None))
        axis.set_xticks(over, [f"{x:,}" for x in over])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    """Run the benchmark."""
    args = parser().parse_args()
    if args.quick:
        args.questions, args.new_tokens = 2, 4
    device = device_named(args.device)
    on_gpu = device.type == "cuda"
    args.sweeps = args.sweeps or ["prefix", "paths"] + ([] if on_gpu else ["threads"])
    if on_gpu and "threads" in args.sweeps:
        raise SystemExit("error: --sweeps threads: threads of a CPU say nothing about a GPU")
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    model = load_model(args.model, DTYPES[args.dtype], args.seed, device)
    found = {name: sweep(name, model, args) for name in args.sweeps}
    for name, points in found.items():
        show(name, points)
    threads = found.get("threads", [])
    if len(threads) == 2:
        speedup = threads[0]["seconds"] / threads[1]["seconds"]
        print(f"{threads[1]['threads']} threads are {speedup:.2f} x as fast as 1")
    if args.plot is not None:
        draw(found, args.plot)
    last = found[args.sweeps[0]][-1]
    providers = {"fastsi": last["seconds"], CEILING: last["ceiling_seconds"]}
    tokens = last["questions"] * last["paths"] * last["new_tokens"]
    line = json.dumps(
        {
            "workload": {
                "model": args.model,
                "dtype": args.dtype,
                "device": device.type,
                "point": "last of the first sweep",
            }
            | describe(model.config),
            "baseline": "fastsi",
            "providers": {
                name: {"seconds": seconds, "tokens_per_s": tokens / seconds}
                for name, seconds in providers.items()
            },
            "ratios": {name: last["seconds"] / seconds for name, seconds in providers.items()},
            "floor": {"seconds": last["floor_seconds"]},
            "details": {"sweeps": found},
            "versions": versions(),
            "command": shlex.join(sys.argv),
        }
    )
    if args.json_out is not None:
        with args.json_out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
