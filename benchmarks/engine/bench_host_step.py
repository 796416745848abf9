"""What the host costs per decode step where steps are replayed as CUDA graphs.

Needs no GPU: the engine fills and follows the buffers of its frames in host memory, and the pass
they stand for, draws included, is replaced by tokens made beforehand. So what is timed is choosing
a step, bringing its inputs to the frame, reading its tokens and taking them in. Launches and copies
of a real GPU come on top. Two engines run in turns: one that fills its frame at every step, and one
that lets the last step's buffers move on (`Frame.follow`). Processor time is told beside wall time,
for machines that are busy.

Example:
    python benchmarks/engine/bench_host_step.py --stop-share 0.004
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _harness import Result, add_arguments, measure, report, start
from transformers import AutoModelForCausalLM, LlamaConfig

from fastsi import LLM, SamplingParams
from fastsi.engine.frames import Frame
from fastsi.engine.graphs import DecodeGraphs

VOCAB = 512
STOP = 5
"""The token that ends a path."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    result = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--prefix-tokens", type=int, default=1024, metavar="N", help="default: 1024")
    add("--question-tokens", type=int, default=60, metavar="N", help="default: 60")
    add("--questions", type=int, default=8, metavar="N", help="default: 8")
    add("--paths", type=int, default=32, metavar="N", help="per question (default: 32)")
    add("--new-tokens", type=int, default=128, metavar="N", help="per path (default: 128)")
    add("--stop-share", type=float, default=0.0, help="of the tokens end a path (default: 0)")
    add_arguments(result)
    return result


def make_engine(args: argparse.Namespace) -> LLM:
    """An engine over a model whose size does not matter, every prompt cached."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = args.questions * args.paths
    tokens = args.prefix_tokens + args.questions * (args.question_tokens + 16)
    tokens += rows * (args.new_tokens + 16)
    return LLM(model, kv_cache_tokens=tokens, max_batch_rows=rows, pipeline=True, graphs="eager")


class StandIn:
    """`DecodeGraphs._pass` without a pass: tokens made beforehand."""

    def __init__(self, stop_share: float) -> None:
        self._random, self._stop_share = torch.Generator().manual_seed(0), stop_share
        self._made: dict[int, list[tuple[torch.Tensor, ...]]] = {}
        self._count = 0

    def __call__(self, frame: Frame) -> tuple[torch.Tensor, ...]:
        """Logits [width, vocab], tokens and log-probs [width]."""
        width = frame.key.width
        if width not in self._made:
            logits, logprob = torch.zeros(width, VOCAB), torch.zeros(width)
            self._made[width] = [(logits, self._tokens(width), logprob) for _ in range(97)]
        self._count += 1
        return self._made[width][self._count % 97]

    def _tokens(self, width: int) -> torch.Tensor:
        tokens = torch.randint(STOP + 1, VOCAB, (width,), generator=self._random)
        ends = torch.rand(width, generator=self._random) < self._stop_share
        return torch.where(ends, STOP, tokens)


def main() -> None:
    """Run the benchmark."""
    args = parser().parse_args()
    if args.quick:
        args.prefix_tokens, args.question_tokens, args.new_tokens = 24, 6, 12
        args.questions, args.paths = 2, 4
    start(args)
    random = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(STOP + 1, VOCAB, (count,), generator=random).tolist()

    prefix = draw(args.prefix_tokens)
    prompts = [prefix + draw(args.question_tokens) for _ in range(args.questions)]
    params = SamplingParams(
        n=args.paths, max_tokens=args.new_tokens, ignore_eos=True, stop_token_ids=[STOP], seed=1
    )
    engines = {name: make_engine(args) for name in ("filled", "followed")}
    steps: dict[str, Any] = {}
    busy: dict[str, list[float]] = defaultdict(list)

    def run(name: str) -> None:
        llm = engines[name]
        llm.reset_stats()
        begin = time.process_time()
        follow = Frame.follow if name == "followed" else lambda self, step: None
        with (
            mock.patch.object(DecodeGraphs, "_pass", lambda _, frame: stand_in(frame)),
            mock.patch.object(Frame, "follow", follow),
        ):
            llm.generate(prompts, params, use_tqdm=False)
        busy[name].append(time.process_time() - begin)
        steps[name] = llm.stats()

    stand_in = StandIn(args.stop_share)
    for llm in engines.values():  # with the real pass, so that every prompt is cached
        llm.generate(prompts, SamplingParams(n=1, max_tokens=1), use_tqdm=False)
    timings = measure({name: lambda name=name: run(name) for name in engines}, repeats=args.repeats)
    details = {}
    for name, timing in timings.items():
        count = steps[name]["steps"]
        wall, cpu = 1e3 * timing.seconds / count, 1e3 * median(busy[name][1:]) / count
        phases = {k: round(1e3 * v / count, 4) for k, v in steps[name]["seconds"].items()}
        details[name] = {"steps": count, "wall_ms_per_step": wall, "cpu_ms_per_step": cpu} | phases
        print(f"{name}: {wall:.3f} ms per step, {cpu:.3f} of processor time; of all {phases}")
    report(
        Result(
            workload={key: value for key, value in vars(args).items() if key != "json_out"},
            timings=timings,
            baseline="filled",
            details=details,
        ),
        title=f"Host time of {args.questions} x {args.paths} paths x {args.new_tokens} tokens",
        json_out=args.json_out,
    )


if __name__ == "__main__":
    main()
