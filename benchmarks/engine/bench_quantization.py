"""What quantization="bf16" or "int8" and kv_dtype="int8" cost in quality and give in speed.

Quality, on --questions problems and --paths paths each, drawn by the float32 engine:

- Kullback-Leibler divergence from the float32 model's next-token distribution to that with
  bfloat16 or int8 linear layers, over the positions of the first path of every question, and how
  often the most likely token is the same; in int8 also for all layers but the vocabulary head;
  with an int8 KV cache alone; and with both. Prompts are spans that paths share, paths are spans
  of their own, as in the engine.
- How many majority winners change when such an engine draws the paths with the same seed; and,
  to judge that by, how many change when the float32 engine draws them with another seed.

Speed: all engines draw all paths in turns, every path to its full length.

Example:
    python benchmarks/engine/bench_quantization.py --questions 200 --paths 16
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _harness import Result, add_arguments, measure, report, start
from torch import nn

import fastsi
from fastsi.api import BUILTIN, builtin_model
from fastsi.data.questions import read_questions
from fastsi.data.stories import make_problems
from fastsi.engine import architecture
from fastsi.engine.attention import StepContext, engine_attention
from fastsi.engine.kv_pool import KVPool, LayerShape
from fastsi.ops import SegmentPlan, linear, pack_weight
from fastsi.types import RequestOutput, SamplingParams, Vote
from fastsi.vote import vote


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    result = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--model", default=BUILTIN, help="folder, hub id or .gguf file (default: the bundled one)")
    add("--data", type=Path, help="questions, JSON lines (default: the bundled model's problems)")
    add("--questions", type=int, default=100, metavar="N", help="default: 100")
    add("--paths", type=int, default=16, metavar="N", help="paths per question (default: 16)")
    add("--new-tokens", type=int, default=120, metavar="N", help="longest path (default: 120)")
    add("--seed", type=int, default=0, help="of problems and paths (default: 0)")
    add_arguments(result)
    return result


def prompts_of(args: argparse.Namespace, llm: fastsi.LLM) -> list[str]:
    """Chat turns where the model has a template, else the form of the bundled model's text."""
    if args.data is None:
        found = [s.question for s in make_problems("evaluate", args.questions, seed=args.seed)]
    else:
        found = [q.question for q in read_questions(args.data)][: args.questions]
    tokenizer = llm.tokenizer
    if tokenizer is None or tokenizer.chat_template is None:
        return [f"Q: {question}\nA:" for question in found]
    turns = [[{"role": "user", "content": question}] for question in found]
    return [
        str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        for turn in turns
    ]


@contextlib.contextmanager
def rounded_linears(model: nn.Module, mode: str, *, head: bool = True) -> Iterator[None]:
    """Run the model's linear layers, with or without the vocabulary head, in a mode of `linear`."""
    output = model.get_output_embeddings()  # type: ignore[operator]

    def forward_of(layer: nn.Linear) -> Any:
        packed = pack_weight([layer.weight], mode=mode)

        def forward(x: torch.Tensor) -> torch.Tensor:
            flat = x.reshape(-1, x.shape[-1])
            return linear(flat, packed, bias=layer.bias).view(*x.shape[:-1], -1)

        return forward

    with contextlib.ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and (head or layer is not output):
                stack.enter_context(mock.patch.object(layer, "forward", forward_of(layer)))
        yield


PAGE = 16
"""Tokens per page of the caches below."""


def step_of(prompt: int, path: int, layers: list[LayerShape]) -> StepContext:
    """All tokens of a prompt and its path in one step over an int8 cache."""
    shared, own = -(-prompt // PAGE), -(-path // PAGE)
    plan = SegmentPlan.from_lists(
        pages=[list(range(shared)), list(range(shared, shared + own))],
        page_offset=[0, 0],
        kv_len=[prompt, path],
        kv_start=[0, prompt],
        rows=[(0, prompt + path), (prompt, prompt + path)],
        causal=[True, True],
        row_pos=list(range(prompt + path)),
        per_path=[False, True],
    )
    device = torch.device("cpu")
    pool = KVPool(layers, num_pages=shared + own, page_size=PAGE, dtype=torch.int8, device=device)
    slots = torch.cat([torch.arange(prompt), shared * PAGE + torch.arange(path)])
    return StepContext.over(pool, slots, plan)


@torch.inference_mode()
def int8_cache_distributions(model: Any, outputs: list[RequestOutput]) -> list[torch.Tensor]:
    """`distributions` with keys and values in an int8 cache."""
    layers = [call.shape for call in architecture.inspect(model)]
    found = []
    with engine_attention(model):
        for output in outputs:
            path = list(output.outputs[0].token_ids)
            prompt = len(output.prompt_token_ids)
            ids = torch.tensor([output.prompt_token_ids + path])
            logits = model(
                input_ids=ids,
                position_ids=torch.arange(ids.shape[1])[None],
                use_cache=False,
                fastsi_step=step_of(prompt, len(path), layers),
            ).logits[0, prompt - 1 : -1]
            found.append(logits.float().log_softmax(dim=-1))
    return found


@torch.inference_mode()
def distributions(model: nn.Module, outputs: list[RequestOutput]) -> list[torch.Tensor]:
    """Log-probabilities [tokens, vocabulary] of every token of each first path."""
    found = []
    for output in outputs:
        path = list(output.outputs[0].token_ids)
        ids = torch.tensor([output.prompt_token_ids + path])
        logits = model(input_ids=ids).logits[0, len(output.prompt_token_ids) - 1 : -1]
        found.append(logits.float().log_softmax(dim=-1))
    return found


def divergence(truth: list[torch.Tensor], other: list[torch.Tensor]) -> dict[str, float]:
    """KL(truth || other) in nats over all positions, and agreement of the likeliest token."""
    pairs = list(zip(truth, other, strict=True))
    kl = torch.cat([(p.exp() * (p - q)).sum(dim=-1) for p, q in pairs])
    same = torch.cat([p.argmax(dim=-1) == q.argmax(dim=-1) for p, q in pairs])
    return {
        "positions": len(kl),
        "kl_mean": kl.mean().item(),
        "kl_p99": kl.quantile(0.99).item(),
        "kl_max": kl.max().item(),
        "top1_agreement": same.float().mean().item(),
    }


def votes_of(outputs: list[RequestOutput]) -> list[Vote]:
    """The majority of each question."""
    return [vote([path.text for path in output.outputs]) for output in outputs]


def changed(left: list[Vote], right: list[Vote]) -> float:
    """Share of questions whose winners differ."""
    different = [a.winner != b.winner for a, b in zip(left, right, strict=True)]
    return sum(different) / len(different)


def main() -> None:
    """Compare, time, print."""
    args = parser().parse_args()
    start(args)
    if args.quick:
        args.questions, args.paths, args.new_tokens = 6, 4, 40
    for name in ("questions", "paths", "new_tokens"):
        if getattr(args, name) < 1:
            raise SystemExit(
                f"--{name.replace('_', '-')}={getattr(args, name)}: must be at least 1"
            )
    torch.manual_seed(args.seed)
    where = str(builtin_model() if args.model == BUILTIN else args.model)
    exact = fastsi.LLM(where, dtype="float32", device="cpu")
    options: dict[str, dict[str, Any]] = {
        "bf16": {"quantization": "bf16"},
        "int8": {"quantization": "int8"},
        "int8_cache": {"kv_dtype": "int8"},
        "bf16_and_cache": {"quantization": "bf16", "kv_dtype": "int8"},
        "int8_and_cache": {"quantization": "int8", "kv_dtype": "int8"},
    }
    rounded = {
        name: fastsi.LLM(exact.model, tokenizer=exact.tokenizer, **option)
        for name, option in options.items()
    }
    prompts = prompts_of(args, exact)
    if not prompts:
        raise SystemExit(f"--data={args.data}: holds no question")

    def draw(llm: fastsi.LLM, seed: int, *, full: bool = False) -> list[RequestOutput]:
        params = SamplingParams(
            n=args.paths,
            temperature=0.7,
            max_tokens=args.new_tokens,
            stop=() if full else ("\nQ:",),
            ignore_eos=full,
            seed=seed,
        )
        llm.reset_prefix_cache()
        return llm.generate(prompts, params, use_tqdm=False)

    outputs, again = draw(exact, args.seed), draw(exact, args.seed + 1)
    votes = votes_of(outputs)
    truth = distributions(exact.model, outputs)
    details: dict[str, Any] = {
        "winners_changed_by_another_seed": changed(votes, votes_of(again)),
        "vote_share": sum(v.share for v in votes) / len(votes),
    }
    for name, llm in rounded.items():
        others = votes_of(draw(llm, args.seed))
        details[f"winners_changed_{name}"] = changed(votes, others)
        details[f"vote_share_{name}"] = sum(v.share for v in others) / len(others)
    for name, mode, head in (
        ("bf16", "bf16", True),
        ("int8", "int8", True),
        ("int8_without_head", "int8", False),
    ):
        with rounded_linears(exact.model, mode, head=head):
            details[name] = divergence(truth, distributions(exact.model, outputs))
    details["int8_cache"] = divergence(truth, int8_cache_distributions(exact.model, outputs))
    for mode in ("bf16", "int8"):
        with rounded_linears(exact.model, mode):
            both = int8_cache_distributions(exact.model, outputs)
        details[f"{mode}_and_cache"] = divergence(truth, both)
    for name, value in details.items():
        print(f"{name}: {value}", file=sys.stderr)
    timings = measure(
        {
            name: (lambda llm=llm: draw(llm, args.seed, full=True))
            for name, llm in ({"float32": exact} | rounded).items()
        },
        repeats=args.repeats,
    )
    result = Result(
        workload={
            "model": Path(where).name,
            "questions": len(prompts),
            "paths": args.paths,
            "new_tokens": args.new_tokens,
            "temperature": 0.7,
        },
        timings=timings,
        baseline="float32",
        tokens=len(prompts) * args.paths * args.new_tokens,
        details=details,
    )
    report(
        result,
        title="rounded linear layers and int8 KV cache against float32",
        json_out=args.json_out,
    )


if __name__ == "__main__":
    main()
