"""Tables of results for people, narrow enough for 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from fastsi.cli._output import percent

NAMES = {
    "greedy": "greedy accuracy",
    "sample": "one sample",
    "majority": "majority vote",
    "consistency": "consistency",
    "parse_rate": "with an answer",
}
"""Names of the measures for people."""
_EQUATIONS = "true equations"


def before_after(
    before: Mapping[str, Any], after: Mapping[str, Any], change: Mapping[str, Any]
) -> Table:
    """Measures of two evaluations, in percent, with 95 % intervals."""
    table = _table(
        f"{before['n_problems']} problems, {before['paths']} paths each; in %, [95 % interval]",
        ("", "before", "after", "change"),
    )
    for name, title in NAMES.items():
        moved = [100 * change[name][end] for end in ("change", "low", "high")]
        table.add_row(
            title,
            _with_interval(before, name),
            _with_interval(after, name),
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*moved),
        )
    errors = [each["calibration"]["ece"] for each in (before, after)]
    table.add_row("calibration error", *map(percent, errors), _points(*errors))
    true = [each["equations_true"] for each in (before, after)]
    table.add_row(_EQUATIONS, *map(percent, true), _points(*true))
    return table


def one_evaluation(evaluation: Mapping[str, Any]) -> Table:
    """Measures of one evaluation, in percent, with 95 % intervals."""
    table = _table(
        f"{evaluation['n_problems']} problems, {evaluation['paths']} paths each; "
        "in %, [95 % interval]",
        ("", ""),
    )
    for name, title in NAMES.items():
        table.add_row(title, _with_interval(evaluation, name))
    table.add_row("calibration error", percent(evaluation["calibration"]["ece"]))
    table.add_row(_EQUATIONS, percent(evaluation["equations_true"]))
    for k, value in evaluation["pass_at"].items():
        table.add_row(f"pass@{k}", percent(value))
    return table


def calibration_table(evaluation: Mapping[str, Any], title: str) -> Table:
    """Accuracy of the majority by vote share."""
    table = _table(title, ("vote share %", "problems", "majority right %", "95 % interval"))
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
    table = _table("without gold answers", ("", *(f"round {each['round']}" for each in rounds)))
    counts = ("questions", "paths", "kept_questions", "kept_paths", "examples")
    for name in counts:
        table.add_row(name.replace("_", " "), *(str(each[name]) for each in rounds))
    for name, title in (("consistency", "consistency %"), ("parse_rate", "with an answer %")):
        table.add_row(title, *(percent(each[name]) for each in rounds))
    for title, place in (("first loss", 0), ("last loss", -1)):
        table.add_row(title, *(f"{each['loss'][place]:.3f}" for each in rounds))
    return table


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """Wall time by phase."""
    table = _table("time", ("phase", "seconds"))
    for name, value in (*seconds.items(), ("sum", sum(seconds.values()))):
        table.add_row(name.replace("_", " "), f"{value:.1f}")
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
        pad_edge=False,
    )
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def _points(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{100 * (after - before):+.1f}"


def _with_interval(evaluation: Mapping[str, Any], name: str) -> str:
    low, high = evaluation["intervals"][name]
    return f"{percent(evaluation[name])} [{percent(low)}, {percent(high)}]"
