"""Stopping rules replayed on recorded answers: samples saved, winners changed, time to decide.

Every set holds 120 questions with 40 paths of the bundled model (``record_keys.py``). A winner is
changed where the vote over the paths that a rule keeps has another winner than that over all 40;
ties go to the earlier path in both. ``exact`` must change none, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _harness import Result, add_arguments, measure_short, report, start
from rich.console import Console
from rich.table import Table

from fastsi.vote import decide, majority, parse_rule

DATA = Path(__file__).resolve().parent / "data"
LEVELS = ("easy", "medium", "hard")
RULES = ("none", "exact", "beta:0.99", "beta:0.95", "beta:0.9", "window:5", "window:3")

Questions = list[list[str | None]]


def recorded(level: str) -> Questions:
    """Keys of one set: a list of paths per question."""
    stored = json.loads((DATA / f"keys_{level}.json").read_text(encoding="utf-8"))
    return [
        [None if path < 0 else each["answers"][path] for path in each["paths"]]
        for each in stored["questions"]
    ]


def replayed(rule: str, questions: Questions) -> dict[str, float]:
    """What a rule saves and changes on one set."""
    kept = changed = sampled = 0
    for keys in questions:
        stop = decide(rule, keys)
        at = len(keys) if stop is None else stop.at
        kept, sampled = kept + at, sampled + len(keys)
        changed += majority(keys[:at]).winner != majority(keys).winner
    return {
        "saved": 1 - kept / sampled,
        "paths": kept / len(questions),
        "changed": changed,
        "questions": len(questions),
    }


def show(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """One row per rule, two columns per set."""
    table = Table(title="paths saved, and winners changed against all 40", title_justify="left")
    table.add_column("rule")
    for level in LEVELS:
        table.add_column(f"{level}: paths", justify="right")
        table.add_column("saved", justify="right")
        table.add_column("changed", justify="right")
    for rule, levels in found.items():
        row = [rule]
        for level in LEVELS:
            each = levels[level]
            share = f"{each['changed']:.0f}/{each['questions']:.0f}"
            row += [f"{each['paths']:.1f}", f"{each['saved']:.1%}", share]
        table.add_row(*row)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110).print(table)


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_arguments(parser)
    args = parser.parse_args()
    start(args)
    sets = {level: recorded(level)[: 10 if args.quick else None] for level in LEVELS}
    found = {rule: {level: replayed(rule, sets[level]) for level in LEVELS} for rule in RULES}
    if any(each["changed"] for each in found["exact"].values()):
        raise SystemExit(f"exact changed a winner: {found['exact']}")
    show(found)
    everything = [keys for questions in sets.values() for keys in questions]

    def deciding(rule: str) -> Callable[[], Any]:
        parsed = parse_rule(rule)
        return lambda: [decide(parsed, keys) for keys in everything]

    result = Result(
        workload={"sets": list(LEVELS), "questions": len(everything), "paths": 40},
        timings=measure_short(
            {rule: deciding(rule) for rule in RULES},
            repeats=args.repeats,
            min_seconds=0.01 if args.quick else 0.1,
        ),
        baseline="none",
        tokens=len(everything),
        details={"rules": found},
    )
    report(result, title="time to decide; 'tokens' are questions", json_out=args.json_out)


if __name__ == "__main__":
    main()
