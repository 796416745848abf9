"""Tables of results for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from fastsi.cli._output import percent

NAMES = {
    "greedy": "greedy accuracy",
    "sample": "one-sample accuracy",
    "majority": "majority accuracy",
    "consistency": "consistency",
    "parse_rate": "paths with an answer",
}
"""Names of the measures for people."""


def before_after(
    before: Mapping[str, Any], after: Mapping[str, Any], change: Mapping[str, Any]
) -> Table:
    """Measures of two evaluations, in percent, with 95 % intervals."""
    table = Table(
        title=f"before and after, {before['n_problems']} problems, {before['paths']} paths, "
        "% with 95 % intervals",
        title_justify="left",
    )
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for name, title in NAMES.items():
        moved = change[name]
        table.add_row(
            title,
            _with_interval(before, name),
            _with_interval(after, name),
            "{:+.1f}  [{:+.1f}, {:+.1f}]".format(
                *(100 * moved[end] for end in ("change", "low", "high"))
            ),
        )
    errors = [each["calibration"]["ece"] for each in (before, after)]
    moved = f"{100 * (errors[1] - errors[0]):+.1f}"
    table.add_row("calibration error", *map(percent, errors), moved)
    first, second = before["equations_true"], after["equations_true"]
    moved = "-" if first is None or second is None else f"{100 * (second - first):+.1f}"
    table.add_row("paths whose equations hold", percent(first), percent(second), moved)
    return table


def one_evaluation(evaluation: Mapping[str, Any]) -> Table:
    """Measures of one evaluation, in percent, with 95 % intervals."""
    table = Table(
        title=f"{evaluation['n_problems']} problems, {evaluation['paths']} paths, "
        "% with 95 % intervals",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("", justify="right")
    for name, title in NAMES.items():
        table.add_row(title, _with_interval(evaluation, name))
    table.add_row("calibration error", percent(evaluation["calibration"]["ece"]))
    table.add_row("paths whose equations hold", percent(evaluation["equations_true"]))
    for k, value in evaluation["pass_at"].items():
        table.add_row(f"pass@{k}", percent(value))
    return table


def calibration_table(evaluation: Mapping[str, Any], title: str) -> Table:
    """Accuracy of the majority by vote share."""
    table = Table(title=title, title_justify="left")
    for heading in ("vote share %", "problems", "majority right %", "95 % interval"):
        table.add_column(heading, justify="right")
    for row in evaluation["calibration"]["bins"]:
        if row["count"]:
            low, high = row["interval"]
            table.add_row(
                f"{100 * row['low']:.0f}-{100 * row['high']:.0f}",
                str(row["count"]),
                percent(row["accuracy"]),
                f"[{percent(low)}, {percent(high)}]",
            )
    return table


def rounds_table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """What each round sampled, kept and learned; no gold answer is behind any of it."""
    table = Table(title="rounds", title_justify="left")
    headings = (
        "round", "questions", "paths", "consistency %", "parsed %", "kept questions",
        "kept paths", "examples", "first loss", "last loss",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in rounds:
        table.add_row(
            str(each["round"]),
            str(each["questions"]),
            str(each["paths"]),
            percent(each["consistency"]),
            percent(each["parse_rate"]),
            str(each["kept_questions"]),
            str(each["kept_paths"]),
            str(each["examples"]),
            f"{each['loss'][0]:.3f}",
            f"{each['loss'][-1]:.3f}",
        )
    return table


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """Wall time by phase."""
    table = Table(title="seconds", title_justify="left")
    for name in (*seconds, "sum"):
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{value:.1f}" for value in (*seconds.values(), sum(seconds.values()))))
    return table


def _with_interval(evaluation: Mapping[str, Any], name: str) -> str:
    low, high = evaluation["intervals"][name]
    return f"{percent(evaluation[name])}  [{percent(low)}, {percent(high)}]"
