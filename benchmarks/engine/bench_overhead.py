"""How much of the engine's time passes outside its kernels.

Every call into the compiled extension is timed; what is left of `generate` is Python, torch's own
operations and waiting. The clock is read twice per call, which counts as outside. float32 and int8
run in turns.

Example:
    python benchmarks/engine/bench_overhead.py --model FILE.gguf --prefix-tokens 64 --questions 8
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from _floor import PathsWorkload, decode_floor, describe
from _harness import Result, Timing, add_arguments, machine_rates, report, start, timed
from _models import MODEL_HELP, load_model
from bench_sample_paths import make_prompts

from fastsi import LLM, SamplingParams, _ext

KERNELS = (
    "linear", "linear_int8", "rms_norm", "rope_kv_write", "act_mul", "kv_write", "merge_states",
    "segment_attention", "sample_tokens", "match_stop",
)  # fmt: skip
"""Functions of the extension that a step may call."""
Seconds = dict[str, float]


@contextmanager
def clocked(seconds: Seconds) -> Iterator[None]:
    """Add the time of every call of a kernel to ``seconds``, by name."""
    core = _ext.core()

    def clock(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return run(*args, **named)
            finally:
                seconds[name] += time.perf_counter() - begin

        return call

    class Decoder:
        """The pass, or steps, in one call; a fresh session makes it anew, so it is found here."""

        def __init__(self, *parts: Any) -> None:
            decoder = made(*parts)
            self.forward = clock("decoder", decoder.forward)
            self.decode = clock("decoder", decoder.decode)

    made = core.Decoder
    patches = [mock.patch.object(core, "Decoder", Decoder)]
    patches += [mock.patch.object(core, name, clock(name, getattr(core, name))) for name in KERNELS]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    result = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--model", default="builtin", help=f"{MODEL_HELP} (default: builtin)")
    add("--prefix-tokens", type=int, default=64, metavar="N", help="default: 64")
    add("--question-tokens", type=int, default=60, metavar="N", help="default: 60")
    add("--questions", type=int, default=8, metavar="N", help="default: 8")
    add("--paths", type=int, default=32, metavar="N", help="per question (default: 32)")
    add("--new-tokens", type=int, default=32, metavar="N", help="per path (default: 32)")
    add("--temperature", type=float, default=0.7, help="default: 0.7")
    add("--seed", type=int, default=0, help="of prompts and paths (default: 0)")
    add_arguments(result)
    return result


def main() -> None:
    """Run the benchmark."""
    args = parser().parse_args()
    if args.quick:
        args.prefix_tokens, args.question_tokens, args.new_tokens = 24, 6, 6
        args.questions, args.paths = 2, 4
    start(args)
    model = load_model(args.model, torch.float32, args.seed, torch.device("cpu"))
    prompts = [{"prompt_token_ids": prompt} for prompt in make_prompts(args, model)]
    params = SamplingParams(
        n=args.paths,
        temperature=args.temperature,
        max_tokens=args.new_tokens,
        ignore_eos=True,
        seed=args.seed,
    )
    engines = {"float32": LLM(model), "int8": LLM(model, quantization="int8")}
    samples: dict[str, list[float]] = defaultdict(list)
    kernels: dict[str, list[Seconds]] = defaultdict(list)

    def generate(llm: LLM) -> None:
        llm.reset_prefix_cache()
        llm.generate(prompts, params, use_tqdm=False)

    for turn in range(1 + args.repeats):
        for name, llm in engines.items():
            seconds: Seconds = defaultdict(float)
            with clocked(seconds):
                whole = timed(lambda llm=llm: generate(llm))
            if turn:  # the first is a warm-up
                samples[name].append(whole)
                kernels[name].append(seconds)
    outside = {
        name: median(
            1 - sum(seconds.values()) / whole
            for whole, seconds in zip(samples[name], kernels[name], strict=True)
        )
        for name in engines
    }
    rates = machine_rates(quick=args.quick)
    sizes = ("prefix_tokens", "question_tokens", "questions", "paths", "new_tokens")
    work = PathsWorkload(**{name: getattr(args, name) for name in sizes})
    for name, share in outside.items():
        steps = engines[name].stats()["steps"]
        print(f"{name}: {share:.1%} of generate outside kernels ({steps} steps in all)")
    report(
        Result(
            workload=dataclasses.asdict(work) | {"model": args.model} | describe(model.config),
            timings={name: Timing(samples=values) for name, values in samples.items()},
            baseline="float32",
            tokens=args.questions * args.paths * args.new_tokens,
            floor=decode_floor(model.config, work, rates, dtype=torch.float32),
            details={
                "outside_kernels": outside,
                "kernel_seconds": {name: dict(runs[-1]) for name, runs in kernels.items()},
            },
        ),
        title=f"{args.model}: {args.questions} question(s) x {args.paths} paths x "
        f"{args.new_tokens} tokens after {args.prefix_tokens} shared + {args.question_tokens} own",
        json_out=args.json_out,
    )


if __name__ == "__main__":
    main()
