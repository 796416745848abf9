"""Records the answers of 40 sampled paths per question, for benchmarks of stopping rules.

Questions are stories of the split "evaluate". They are ranked by how well 16 paths of their own
agree (share of the winner; ties by order), and cut into three equal sets: easy, medium, hard. The
40 recorded paths have another seed, so that the ranking does not look at what it sorts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fastsi import api
from fastsi.data.stories import make_problems
from fastsi.types import SamplingParams, Vote

DATA = Path(__file__).parent / "data"
LEVELS = ("easy", "medium", "hard")
PATHS, RANKING_PATHS = 40, 16


def votes(llm: api.LLM, prompts: Sequence[str], paths: int, seed: int) -> list[Vote]:
    """Full votes at the paper's temperature."""
    params = SamplingParams(n=paths, temperature=0.7, max_tokens=256, stop=("\nQ:",), seed=seed)
    found: list[Vote] = []
    for begin in range(0, len(prompts), 60):
        found += llm.vote(prompts[begin : begin + 60], params)
        print(f"seed {seed}: {len(found)}/{len(prompts)} questions", file=sys.stderr, flush=True)
    return found


def record(name: str, ids: Sequence[str], kept: Sequence[Vote], seeds: dict[str, int]) -> Path:
    """Write one set: per question its answers, and per path the index of its answer or -1."""
    questions = []
    for question, vote in zip(ids, kept, strict=True):
        answers = list(dict.fromkeys(key for key in vote.keys if key is not None))
        number: dict[str | None, int] = {key: at for at, key in enumerate(answers)}
        paths = [number.get(key, -1) for key in vote.keys]
        questions.append({"id": question, "answers": answers, "paths": paths})
    about = {"level": name, "model": "builtin", "temperature": 0.7, "paths": PATHS, **seeds}
    target = DATA / f"keys_{name}.json"
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in questions)
    target.write_text(f'{{"about": {json.dumps(about)},\n"questions": [\n{lines}\n]}}\n')
    return target


def main() -> None:
    """Sample, rank, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--per-level", type=int, default=120, help="questions per set")
    parser.add_argument("--seed", type=int, default=40, help="of problems; +1 ranks, +2 records")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stories = make_problems("evaluate", len(LEVELS) * args.per_level, seed=args.seed)
    prompts = [f"Q: {story.question}\nA:" for story in stories]
    llm = api.load_model(api.BUILTIN)
    ranking = votes(llm, prompts, RANKING_PATHS, args.seed + 1)
    recorded = votes(llm, prompts, PATHS, args.seed + 2)
    order = sorted(range(len(stories)), key=lambda at: (-ranking[at].share, at))
    seeds = {
        "problem_seed": args.seed,
        "ranking_seed": args.seed + 1,
        "sampling_seed": args.seed + 2,
    }
    DATA.mkdir(exist_ok=True)
    for place, level in enumerate(LEVELS):
        members = sorted(order[place * args.per_level : (place + 1) * args.per_level])
        kept = [recorded[at] for at in members]
        path = record(level, [stories[at].id for at in members], kept, seeds)
        share = sum(vote.share for vote in kept) / len(kept)
        print(f"{path.name}: {len(kept)} questions, mean share {share:.2f}, seeds {seeds}")


if __name__ == "__main__":
    main()
