"""Collects what a run folder holds and renders it as one HTML page."""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from fastsi.cli._output import percent
from fastsi.cli._runs import Run, read_run
from fastsi.cli.report import figures
from fastsi.cli.report.examples import examples_of_evaluations, examples_of_round
from fastsi.evaluate import METRICS, compare, store
from fastsi.train.tables import VOTES, read_rows

_LABELS = {
    "greedy": "greedy accuracy",
    "sample": "one-sample accuracy",
    "majority": "majority accuracy",
    "consistency": "consistency",
    "parse_rate": "paths with an answer",
}
_BARS = {name: _LABELS[name] for name in ("greedy", "sample", "majority", "consistency")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A figure of the page."""

    title: str
    caption: str
    alt: str
    """What the figure shows, for readers who do not see it."""
    source: str
    """The picture itself as a data URI."""


def render(folder: Path, examples: int) -> str:
    """The page of a run folder, as HTML text.

    Raises:
        ArtifactError: the folder is no run, or a file of it is damaged.
    """
    run = read_run(folder)
    stored = {
        name: store.load(folder / "evaluation", name)
        for name in ("before", "after")
        if (folder / "evaluation" / f"{name}.json").exists()
    }
    evaluations = {name: each.summary().to_json() for name, each in stored.items()}
    both = set(stored) == {"before", "after"}
    change = compare(stored["before"].rows, stored["after"].rows) if both else {}
    seconds = _seconds(run, stored)
    if stored and examples:
        shown = examples_of_evaluations(stored, examples)
    else:
        shown = examples_of_round(folder, run, examples)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    source = importlib.resources.files("fastsi.cli.report") / "template.html.j2"
    template = environment.from_string(source.read_text(encoding="utf-8"))
    return template.render(
        title=folder.resolve().parent.name if folder.name == "run" else folder.resolve().name,
        headline=_headline(evaluations, change),
        measures=[(name, _LABELS[name]) for name in METRICS],
        evaluations=evaluations,
        change=change,
        images=_images(run, folder, stored, evaluations),
        reports=run.reports,
        seconds=seconds,
        total=sum(seconds.values()),
        settings=_flat(run.config.to_dict()),
        versions=run.versions,
        examples=shown,
    )


def _headline(evaluations: Mapping[str, Mapping[str, Any]], change: Mapping[str, Any]) -> list[str]:
    """What happened, in sentences; only what the intervals support is called a change."""
    if not change:
        return []
    before, after = evaluations["before"], evaluations["after"]
    lines = []
    for name, what in (("greedy", "Greedy accuracy"), ("consistency", "Consistency")):
        moved = change[name]
        points = f"{100 * moved.change:+.1f} points, 95 % interval {100 * moved.low:+.1f} to "
        points += f"{100 * moved.high:+.1f}"
        if moved.low > 0:
            verb = "rose"
        elif moved.high < 0:
            verb = "fell"
        else:
            verb = "did not change beyond chance"
        lines.append(
            f"{what} {verb}: {percent(before[name])} % before, {percent(after[name])} % after "
            f"({points})."
        )
    gap = 100 * (after["greedy"] - before["majority"])
    lines.append(
        f"One greedy path after training is {abs(gap):.1f} points "
        f"{'above' if gap >= 0 else 'below'} the majority of {before['paths']} paths before it "
        f"({percent(before['majority'])} %)."
    )
    return lines


def _images(
    run: Run,
    folder: Path,
    stored: Mapping[str, store.StoredEvaluation],
    evaluations: Mapping[str, Mapping[str, Any]],
) -> list[Image]:
    images = []
    if len(evaluations) == 2:
        before, after = evaluations["before"], evaluations["after"]
        images.append(
            _image(
                "Before and after",
                f"{before['n_problems']} held-out problems; lines are 95 % intervals.",
                "Bar chart. "
                + "; ".join(
                    f"{title}: {percent(before[name])} % before, {percent(after[name])} % after"
                    for name, title in _BARS.items()
                ),
                figures.before_after_bars(before, after, _BARS),
            )
        )
    if evaluations:
        errors = ", ".join(
            f"{name} {percent(each['calibration']['ece'])} %" for name, each in evaluations.items()
        )
        images.append(
            _image(
                "Calibration of the vote",
                "How often the majority is right, by its share of the paths. A point's area is "
                f"its number of problems. Calibration error: {errors}.",
                f"Line chart of majority accuracy by vote share. Calibration error: {errors}.",
                figures.calibration_curve(evaluations),
            )
        )
    if stored:
        shares = {name: [row.share for row in each.rows] for name, each in stored.items()}
        where = "held-out problems"
    else:
        shares = {
            f"round {report.round}": [
                vote["share"]
                for vote in read_rows(folder / f"round-{report.round}" / "votes.parquet", VOTES)
            ]
            for report in run.reports
        }
        where = "training questions"
    if shares:
        means = ", ".join(
            f"{name} {percent(sum(each) / len(each))} %" for name, each in shares.items()
        )
        images.append(
            _image(
                "Vote shares",
                f"Share of the paths that agree with the majority, {where}. Mean: {means}.",
                f"Histogram of vote shares on {where}. Mean: {means}.",
                figures.share_histogram(shares),
            )
        )
    if run.reports:
        losses = {f"round {report.round}": report.loss for report in run.reports}
        ends = "; ".join(
            f"{name}: {each[0]:.3f} to {each[-1]:.3f}" for name, each in losses.items()
        )
        images.append(
            _image(
                "Training loss",
                "Loss on the kept paths: each step faint, a running mean strong.",
                f"Line chart of training loss by optimizer step, first to last: {ends}.",
                figures.loss_curve(losses),
            )
        )
    return images


def _image(title: str, caption: str, alt: str, svg: str) -> Image:
    data = base64.b64encode(svg.encode()).decode()
    return Image(title=title, caption=caption, alt=alt, source=f"data:image/svg+xml;base64,{data}")


def _seconds(run: Run, stored: Mapping[str, store.StoredEvaluation]) -> dict[str, float]:
    seconds = {}
    if "before" in stored:
        seconds["evaluate before"] = stored["before"].seconds
    for report in run.reports:
        prefix = f"round {report.round}: " if len(run.reports) > 1 else ""
        seconds |= {f"{prefix}{phase}": spent for phase, spent in report.seconds.items()}
    if "after" in stored:
        seconds["evaluate after"] = stored["after"].seconds
    return seconds


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as dotted names and JSON text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value, ensure_ascii=False)
    return flat
