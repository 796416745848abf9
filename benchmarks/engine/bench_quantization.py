"""What quantization="int8" costs in quality and gives in speed.

Quality, on --questions problems and --paths paths each, drawn by the float32 engine:

- Kullback-Leibler divergence from the float32 model's next-token distribution to that with int8
  linear layers, over the positions of the first path of every question, and how often the most
  likely token is the same; for all layers, and for all but the vocabulary head.
- How many majority winners change when the int8 engine draws the paths with the same seed; and,
  to judge that by, how many change when the float32 engine draws them with another seed.

Speed: both engines draw all paths in turns, every path to its full length.

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
from fastsi.ops import linear, pack_weight
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
def int8_linears(model: nn.Module, *, head: bool) -> Iterator[None]:
    """Run the model's linear layers, with or without the vocabulary head, in int8."""
    output = model.get_output_embeddings()  # type: ignore[operator]

    def forward_of(layer: nn.Linear) -> Any:
        packed = pack_weight([layer.weight], mode="int8")

        def forward(x: torch.Tensor) -> torch.Tensor:
            flat = x.reshape(-1, x.shape[-1])
            return linear(flat, packed, bias=layer.bias).view(*x.shape[:-1], -1)

        return forward

    with contextlib.ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and (head or layer is not output):
                stack.enter_context(mock.patch.object(layer, "forward", forward_of(layer)))
        yield


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
    rounded = fastsi.LLM(exact.model, tokenizer=exact.tokenizer, quantization="int8")
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
    quantised = draw(rounded, args.seed)
    votes = votes_of(outputs)
    truth = distributions(exact.model, outputs)
    details: dict[str, Any] = {
        "winners_changed": changed(votes, votes_of(quantised)),
        "winners_changed_by_another_seed": changed(votes, votes_of(again)),
        "vote_share": sum(v.share for v in votes) / len(votes),
        "vote_share_int8": sum(v.share for v in votes_of(quantised)) / len(votes),
    }
    for name, head in (("int8", True), ("int8_without_head", False)):
        with int8_linears(exact.model, head=head):
            details[name] = divergence(truth, distributions(exact.model, outputs))
    for name, value in details.items():
        print(f"{name}: {value}", file=sys.stderr)
    timings = measure(
        {
            "float32": lambda: draw(exact, args.seed, full=True),
            "int8": lambda: draw(rounded, args.seed, full=True),
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
    report(result, title="int8 linear layers against float32", json_out=args.json_out)


if __name__ == "__main__":
    main()
