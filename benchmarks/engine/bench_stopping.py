"""Stopping on the engine: seconds and tokens of a vote with each rule, and stopping at the answer.

All providers vote on the same questions with the same seed. The check before the timing: a rule
keeps exactly the paths that a replay of it on the full vote keeps, ``exact`` changes no winner, and
paths that stop at their answer have the keys of the full texts cut there. ``eager`` is the rule
without waves: all paths start at once, and those that turn out needless are cancelled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _harness import Result, add_arguments, measure, report, start
from rich.console import Console
from rich.table import Table

from fastsi import api, ops
from fastsi.data.stories import make_problems
from fastsi.types import SamplingParams, Vote
from fastsi.vote import answer_key, replay
from fastsi.vote.stopping import parse_rule

PROVIDERS: dict[str, dict[str, Any]] = {
    "none": {},
    "stop-at-answer": {"stop_at_answer": True},
    "exact": {"stopping": "exact"},
    "window:5": {"stopping": "window:5"},
    "beta:0.95": {"stopping": "beta:0.95"},
    "beta:0.95 eager": {"stopping": "beta:0.95", "wave": "n"},
    "beta:0.95 + answer": {"stopping": "beta:0.95", "stop_at_answer": True},
}


def parse() -> argparse.Namespace:
    """Options, sizes filled in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default=api.BUILTIN, help="model folder, hub id or .gguf file")
    parser.add_argument("--questions", type=int, help="questions (default: 48, quick: 4)")
    parser.add_argument("--paths", type=int, help="paths per question (default: 40, quick: 8)")
    parser.add_argument("--rows", type=int, default=128, help="most paths decoding at once")
    parser.add_argument("--max-tokens", type=int, help="longest path (default: 160, quick: 40)")
    parser.add_argument("--seed", type=int, default=5, help="of problems and paths")
    parser.add_argument(
        "--run-on",
        action="store_true",
        help="ignore end-of-sequence tokens and stop strings, as with a model that knows none",
    )
    add_arguments(parser)
    args = parser.parse_args()
    for name, value, quick in (("questions", 48, 4), ("paths", 40, 8), ("max_tokens", 160, 40)):
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else value)
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise SystemExit(f"--{flag}={getattr(args, name)}: must be at least 1")
    return args


def check(llm: api.LLM, prompts: list[str], params: SamplingParams) -> dict[str, Any]:
    """Votes of every provider; refuses a wrong one.

    Raises:
        SystemExit: a provider's votes are not those of the replay on full sampling.
    """
    full = llm.generate(prompts, params, use_tqdm=False)
    texts = [[path.text for path in group.outputs] for group in full]
    keys = [[answer_key(text) for text in group] for group in texts]
    cut = [[answer_key(text[: ops.answer_end(text)]) for text in group] for group in texts]
    found: dict[str, Any] = {}
    whole: list[Vote] = []
    for name, options in PROVIDERS.items():
        llm.reset_stats()
        votes = vote(llm, prompts, params, options)
        stats = llm.stats()
        whole = whole or votes
        rule = parse_rule(options.get("stopping"))
        want = cut if "stop_at_answer" in options else keys
        # In float32 a draw at the edge of two tokens may fall otherwise in another batch.
        same = sum(
            vote.keys == tuple(group[: replay(rule, group).at])
            for vote, group in zip(votes, want, strict=True)
        )
        if same < 0.9 * len(prompts):
            raise SystemExit(f"{name}: {same} of {len(prompts)} votes are those of the replay")
        changed = sum(a.winner != b.winner for a, b in zip(votes, whole, strict=True))
        if name == "exact" and changed > len(prompts) - same:
            raise SystemExit(f"exact changed {changed} winners")
        found[name] = {
            "paths": sum(each.n for each in votes) / len(votes),
            "generated_tokens": stats["generated_tokens"],
            "cancelled_tokens": stats["cancelled_tokens"],
            "steps": stats["steps"],
            "winners_changed": changed,
            "votes_as_replayed": same,
        }
    different = sum(a != b for left, right in zip(keys, cut, strict=True)
                    for a, b in zip(left, right, strict=True))  # fmt: skip
    found["none"]["keys_changed_by_the_cut"] = different
    return found


def vote(
    llm: api.LLM, prompts: list[str], params: SamplingParams, options: dict[str, Any]
) -> list[Vote]:
    """One provider's votes, with an empty prefix cache."""
    llm.reset_prefix_cache()
    wave = {"wave": params.n} if options.get("wave") == "n" else {}
    return llm.vote(prompts, params, **(options | wave))


def show(found: dict[str, Any], questions: int) -> None:
    """What each provider sampled."""
    table = Table(title="what was sampled", title_justify="left")
    for heading in ("provider", "paths", "tokens", "of none", "cancelled", "steps", "changed"):
        table.add_column(heading, justify="left" if heading == "provider" else "right")
    base = found["none"]["generated_tokens"]
    for name, each in found.items():
        table.add_row(
            name,
            f"{each['paths']:.1f}",
            f"{each['generated_tokens']:,}",
            f"{each['generated_tokens'] / base:.1%}",
            f"{each['cancelled_tokens']:,}",
            f"{each['steps']}",
            f"{each['winners_changed']}/{questions}",
        )
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100).print(table)


def main() -> None:
    """Check, time, print."""
    args = parse()
    start(args)
    llm = api.load_model(args.model, max_batch_rows=args.rows)
    stories = make_problems("evaluate", args.questions, seed=args.seed)
    prompts = [f"Q: {story.question}\nA:" for story in stories]
    params = SamplingParams(
        n=args.paths, temperature=0.7, max_tokens=args.max_tokens, stop=("\nQ:",), seed=args.seed
    )
    if args.run_on:
        params = replace(params, stop=(), ignore_eos=True)
    found = check(llm, prompts, params)
    show(found, len(prompts))

    def runner(name: str) -> Callable[[], object]:
        return lambda: vote(llm, prompts, params, PROVIDERS[name])

    result = Result(
        workload={
            "questions": args.questions,
            "paths": args.paths,
            "rows": args.rows,
            "max_tokens": args.max_tokens,
            "run_on": args.run_on,
            "seed": args.seed,
            "model": Path(args.model).name,
        },
        timings=measure({name: runner(name) for name in PROVIDERS}, repeats=args.repeats, warmup=0),
        baseline="none",
        tokens=args.questions,
        details={"check": found},
    )
    report(result, title="votes; 'tokens' are questions", json_out=args.json_out)


if __name__ == "__main__":
    main()
