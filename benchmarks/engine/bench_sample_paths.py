"""Sampling many paths per question: the engine, the engine without sharing, and transformers.

The workload is what self-consistency does: every prompt begins with the same worked examples
(--prefix-tokens), goes on with its own question (--question-tokens), and is continued --paths times
by exactly --new-tokens tokens at temperature 0.7. Prompts are random token ids; caches are emptied
before every run, so that prefill is part of the time.

Before timing, two things are checked on a small sample: greedy tokens equal those of
`model.generate` (a difference is accepted only where the two tokens nearly tie), and sampled tokens
are the same with and without sharing.

Providers: transformers is `model.generate` with num_return_sequences; fastsi is the engine;
fastsi-shared-kv keeps the prompt's keys and values once but reads them for every path, as paged
attention does; fastsi-no-sharing prefills and keeps every path's prompt; fastsi-no-attention is
no engine but a ceiling: the same engine with attention left out.

Example:
    python benchmarks/engine/bench_sample_paths.py --model builtin --paths 32 --questions 4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import transformers
from _floor import PathsWorkload, decode_floor, describe
from _harness import Result, add_arguments, machine_rates, measure, report, start
from _models import DTYPES, MODEL_HELP, device_named, load_model
from transformers import PreTrainedModel

from fastsi import SamplingParams, ops
from fastsi.engine import LLM
from fastsi.engine.fused_decoder import FusedDecoder

NEAR_TIE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Difference of the two largest logits below which rounding may choose either."""
CEILING = "fastsi-no-attention"
SHARING = {
    "fastsi": "tree",
    "fastsi-shared-kv": "prefill",
    "fastsi-no-sharing": "none",
    CEILING: "tree",
}
CHECK_PATHS, CHECK_TOKENS = 4, 8
"""Size of the check before timing."""
NEVER = 2**30
"""A token id outside every vocabulary: `generate` goes on to the full length."""

Prompts = list[list[int]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    result = argparse.ArgumentParser(
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    work = result.add_argument_group("workload")
    add = work.add_argument
    add("--model", default="builtin", metavar="MODEL", help=f"{MODEL_HELP} (default: builtin)")
    add(
        "--dtype",
        choices=sorted(DTYPES),
        default=None,
        help="default: float32 on a CPU, bfloat16 on a GPU",
    )
    add("--device", default="auto", help="auto (the first GPU, or the CPU), cpu or cuda")
    add(
        "--prefix-tokens",
        type=int,
        default=1024,
        metavar="N",
        help="tokens all prompts begin with (default: 1024, cut to the model's context)",
    )
    add(
        "--question-tokens",
        type=int,
        default=60,
        metavar="N",
        help="tokens of each question (default: 60)",
    )
    add("--questions", type=int, default=1, metavar="N", help="prompts (default: 1)")
    add("--paths", type=int, default=32, metavar="N", help="paths per question (default: 32)")
    add("--new-tokens", type=int, default=64, metavar="N", help="tokens per path (default: 64)")
    add("--temperature", type=float, default=0.7, help="default: 0.7")
    add("--seed", type=int, default=0, help="of prompts, weights of 'tiny' and paths (default: 0)")
    chosen = result.add_argument_group("providers")
    chosen.add_argument(
        "--providers",
        nargs="+",
        choices=["transformers", *SHARING],
        default=["transformers", "fastsi-no-sharing", "fastsi-shared-kv", "fastsi", CEILING],
        help="what to time; the first one named is the baseline (default: all)",
    )
    chosen.add_argument(
        "--generate-rows",
        type=int,
        default=64,
        metavar="N",
        help="most rows of one transformers generate call; more questions take several calls "
        "(default: 64)",
    )
    add_arguments(result)
    return result


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse sizes that cannot be run; --quick replaces them by small ones.

    Raises:
        SystemExit: a value is out of range; the message names it.
    """
    if args.quick:
        args.prefix_tokens, args.question_tokens, args.new_tokens = 48, 6, 6
        args.questions, args.paths = 2, 4
    least = {"prefix_tokens": 0, "question_tokens": 1, "questions": 1, "paths": 1, "new_tokens": 1}
    for name, low in least.items():
        if getattr(args, name) < low:
            option = "--" + name.replace("_", "-")
            raise SystemExit(f"error: {option}={getattr(args, name)}: must be at least {low}")
    if args.temperature <= 0:
        raise SystemExit(f"error: --temperature={args.temperature}: must be above 0")


def make_prompts(args: argparse.Namespace, model: PreTrainedModel) -> Prompts:
    """Random prompts with a common prefix, cut so that prompt and path fit the model's context."""
    text = model.config.get_text_config()
    room = text.max_position_embeddings - args.question_tokens - args.new_tokens
    if room < 0:
        raise SystemExit(
            f"error: --question-tokens={args.question_tokens} and --new-tokens={args.new_tokens} "
            f"exceed the model's context of {text.max_position_embeddings} tokens"
        )
    if args.prefix_tokens > room:
        print(f"note: --prefix-tokens cut to {room}, the model's context", file=sys.stderr)
        args.prefix_tokens = room
    generator = torch.Generator().manual_seed(args.seed)

    def draw(count: int) -> list[int]:
        return torch.randint(3, text.vocab_size, (count,), generator=generator).tolist()

    prefix = draw(args.prefix_tokens)
    return [prefix + draw(args.question_tokens) for _ in range(args.questions)]


class Transformers:
    """`model.generate` with ``num_return_sequences``: the loop most scripts have."""

    def __init__(self, model: PreTrainedModel, args: argparse.Namespace) -> None:
        self.model, self.temperature, self.rows = model, args.temperature, args.generate_rows
        self.model.generation_config = transformers.GenerationConfig(pad_token_id=0)

    @torch.inference_mode()
    def run(self, prompts: Prompts, paths: int, new_tokens: int, greedy: bool) -> Prompts:
        """Generated token ids, ``paths`` rows per prompt; all prompts have the same length."""
        how: dict[str, Any] = {"do_sample": False}
        if not greedy:
            how = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        per_call = max(1, self.rows // paths)
        found: Prompts = []
        for first in range(0, len(prompts), per_call):
            ids = torch.tensor(prompts[first : first + per_call], device=self.model.device)
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                num_return_sequences=paths,
                eos_token_id=NEVER,
                **how,
            )
            found += output[:, ids.shape[1] :].tolist()
        return found


def needed_kv_tokens(args: argparse.Namespace, sharing: str) -> int:
    """KV cache in which all paths fit at once, with room for pages that are partly filled."""
    page = 16
    prompt = args.prefix_tokens + args.question_tokens
    rows = args.questions * max(args.paths, CHECK_PATHS)
    own = max(args.new_tokens, CHECK_TOKENS) + 2 * page
    if sharing == "none":
        return rows * (prompt + own)
    return args.prefix_tokens + args.questions * (args.question_tokens + 2 * page) + rows * own


@contextmanager
def leave_out_attention() -> Iterator[None]:
    """Answer every attention call with its queries: right shape, no work, meaningless tokens.

    Layers then run op by op: one call of the extension for all of them would attend.
    """
    with (
        mock.patch.object(FusedDecoder, "_in_one_call", return_value=False),
        mock.patch.object(ops, "segment_attention", lambda q, *_, **__: (q.contiguous(), None)),
    ):
        yield


class Engine:
    """fastsi with one of its ways to share, on the same live model."""

    def __init__(self, model: PreTrainedModel, name: str, args: argparse.Namespace) -> None:
        sharing = SHARING[name]
        self.without_attention = name == CEILING
        self.llm = LLM(
            model, sharing=sharing, seed=args.seed, kv_cache_tokens=needed_kv_tokens(args, sharing)
        )
        self.temperature, self.seed = args.temperature, args.seed

    def run(self, prompts: Prompts, paths: int, new_tokens: int, greedy: bool) -> Prompts:
        """Generated token ids, ``paths`` rows per prompt."""
        self.llm.reset_prefix_cache()
        params = SamplingParams(
            n=paths,
            temperature=0.0 if greedy else self.temperature,
            max_tokens=new_tokens,
            ignore_eos=True,
            seed=self.seed,
        )
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        with leave_out_attention() if self.without_attention else nullcontext():
            outputs = self.llm.generate(requests, params, use_tqdm=False)
        return [path.token_ids for output in outputs for path in output.outputs]


@torch.inference_mode()
def check_greedy(reference: PreTrainedModel, prompts: Prompts, got: Prompts, want: Prompts) -> int:
    """Compare greedy paths; returns the number of near-ties that rounding settled differently.

    Raises:
        SystemExit: a path differs where the reference is not undecided.
    """
    ties = 0
    for index, (prompt, left, right) in enumerate(zip(prompts, got, want, strict=True)):
        if left == right:
            continue
        pairs = zip(left, right, strict=True)
        at = next(i for i, (a, b) in enumerate(pairs) if a != b)
        ids = torch.tensor([prompt + right[:at]], device=reference.device)
        logits = reference(ids).logits[0, -1].float()
        gap = abs(float(logits[left[at]] - logits[right[at]]))
        if gap > NEAR_TIE[reference.dtype]:
            raise SystemExit(
                f"error: prompt {index}, token {at}: fastsi chose {left[at]}, transformers "
                f"{right[at]}, and their logits differ by {gap:.3g}: nothing was timed"
            )
        ties += 1
    return ties


def check_sharing(found: dict[str, Prompts], dtype: torch.dtype) -> float:
    """Share of sampled paths that are the same for every way of sharing.

    Raises:
        SystemExit: they differ in float32, where the sample is too small for rounding to show.
    """
    columns = list(zip(*found.values(), strict=True))
    same = sum(all(path == column[0] for path in column) for column in columns) / len(columns)
    if dtype == torch.float32 and same < 1:
        raise SystemExit(f"error: {', '.join(found)}: only {same:.0%} of sampled paths agree")
    return same


def check(engines: dict[str, Engine], baseline: Transformers, prompts: Prompts) -> dict[str, Any]:
    """The checks before timing, on at most two prompts."""
    few = prompts[:2]
    honest = {name: engine for name, engine in engines.items() if name != CEILING}
    want = baseline.run(few, 1, CHECK_TOKENS, greedy=True)
    ties = 0
    for engine in honest.values():
        got = engine.run(few, 1, CHECK_TOKENS, greedy=True)
        ties += check_greedy(baseline.model, few, got, want)
    sampled = {
        name: engine.run(few, CHECK_PATHS, CHECK_TOKENS, greedy=False)
        for name, engine in honest.items()
    }
    same = check_sharing(sampled, baseline.model.dtype) if sampled else None
    return {"greedy_near_ties": ties, "sampled_paths_equal_across_sharing": same}


def main() -> None:
    """Run the benchmark."""
    args = parser().parse_args()
    check_arguments(args)
    start(args)
    device = device_named(args.device)
    args.dtype = args.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    dtype = DTYPES[args.dtype]
    model = load_model(args.model, dtype, args.seed, device)
    prompts = make_prompts(args, model)
    baseline = Transformers(model, args)
    engines = {name: Engine(model, name, args) for name in args.providers if name in SHARING}
    agreement = check(engines, baseline, prompts)
    for engine in engines.values():
        engine.llm.reset_stats()

    size = (prompts, args.paths, args.new_tokens, False)
    runs: dict[str, Callable[[], object]] = {}
    for name in args.providers:
        provider = baseline if name == "transformers" else engines[name]
        runs[name] = lambda provider=provider: provider.run(*size)
    rates = machine_rates(dtype, model.device, quick=args.quick)
    timings = measure(runs, repeats=args.repeats)

    work = PathsWorkload(
        prefix_tokens=args.prefix_tokens,
        question_tokens=args.question_tokens,
        questions=args.questions,
        paths=args.paths,
        new_tokens=args.new_tokens,
    )
    config = model.config
    names = ("prefix_tokens", "question_tokens", "questions", "paths", "new_tokens", "temperature")
    result = Result(
        workload={name: getattr(args, name) for name in names}
        | {"model": args.model, "dtype": args.dtype, "device": device.type}
        | describe(config),
        timings=timings,
        baseline=args.providers[0],
        tokens=args.questions * args.paths * args.new_tokens,
        floor=decode_floor(config, work, rates, dtype=dtype),
        details={"check": agreement}
        | {name: {"stats": engine.llm.stats()} for name, engine in engines.items()},
    )
    title = (
        f"{args.model} {args.dtype}: {args.questions} question(s) x {args.paths} paths x "
        f"{args.new_tokens} tokens after {args.prefix_tokens} shared + {args.question_tokens} own"
    )
    report(result, title=title, json_out=args.json_out)


if __name__ == "__main__":
    main()
