"""The figures of a report, each an SVG text. Before is grey, after blue, everywhere."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLORS = {"before": "#7c8797", "after": "#1f5fa8"}
_ROUND_COLORS = ("#1f5fa8", "#b4541a", "#3c7d3c", "#7b3f8c")
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "svg.fonttype": "none",  # text stays text: searchable, and drawn in the reader's font
    "svg.hashsalt": "fastsi",  # the same run gives the same bytes
}


def before_after_bars(
    before: Mapping[str, Any], after: Mapping[str, Any], names: Mapping[str, str]
) -> str:
    """Measures of two evaluations side by side, in percent, with their 95 % intervals."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new()
        for offset, (label, evaluation) in enumerate({"before": before, "after": after}.items()):
            for place, name in enumerate(names):
                value = 100 * evaluation[name]
                low, high = (100 * end for end in evaluation["intervals"][name])
                x = place + (offset - 0.5) * 0.36
                axes.bar(
                    x,
                    value,
                    width=0.34,
                    color=COLORS[label],
                    label=label if place == 0 else None,
                    yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                    error_kw={"elinewidth": 1.2, "capsize": 3, "ecolor": "#222222"},
                )
                axes.annotate(
                    f"{value:.1f}",
                    (x, max(high, value)),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9.5,
                )
        axes.set_xticks(range(len(names)), [title.replace(" ", "\n") for title in names.values()])
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("% of problems or paths")
        axes.set_ylim(0, 112)
        axes.set_yticks(range(0, 101, 20))
        _legend(axes, "upper left")
        return _svg(figure)


def calibration_curve(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy of the majority by vote share, with Wilson intervals; areas show counts."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new()
        axes.plot(
            [0, 100],
            [0, 100],
            color="#9aa3ae",
            linewidth=1,
            linestyle="--",
            label="share = accuracy",
        )
        for label, evaluation in evaluations.items():
            rows = [row for row in evaluation["calibration"]["bins"] if row["count"]]
            x = [100 * row["mean_share"] for row in rows]
            y = [100 * row["accuracy"] for row in rows]
            low = [max(0.0, 100 * (row["accuracy"] - row["interval"][0])) for row in rows]
            high = [max(0.0, 100 * (row["interval"][1] - row["accuracy"])) for row in rows]
            total = sum(row["count"] for row in rows)
            color = COLORS.get(label, COLORS["after"])
            axes.errorbar(
                x, y, yerr=[low, high], color=color, linewidth=1.4, elinewidth=0.9, capsize=2
            )
            sizes = [12 + 400 * row["count"] / total for row in rows]
            axes.scatter(x, y, s=sizes, color=color, alpha=0.75, zorder=3, label=label)
        axes.set_xlabel("vote share of the majority answer, %")
        axes.set_ylabel("majority right, %")
        axes.set_xlim(-2, 104)
        axes.set_ylim(-2, 104)
        _legend(axes, "upper left", markers=45)
        return _svg(figure)


def share_histogram(shares: Mapping[str, Sequence[float]], bins: int = 10) -> str:
    """How many questions had which vote share, one outline per label."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new()
        edges = [100 * index / bins for index in range(bins + 1)]
        for number, (label, values) in enumerate(shares.items()):
            color = COLORS.get(label, _ROUND_COLORS[number % len(_ROUND_COLORS)])
            # Weights make every outline a percentage, so sets of different sizes compare.
            weights = [100 / len(values)] * len(values)
            axes.hist(
                [min(100 * value, 99.999) for value in values],
                bins=edges,
                weights=weights,
                histtype="stepfilled",
                facecolor=_with_alpha(color, 0.25),
                edgecolor=color,
                linewidth=1.6,
                label=label,
            )
        axes.set_xlabel("vote share of the majority answer, %")
        axes.set_ylabel("% of questions")
        axes.set_xlim(0, 100)
        _legend(axes, "upper right" if _leans_left(shares) else "upper left")
        return _svg(figure)


def loss_curve(losses: Mapping[str, Sequence[float]]) -> str:
    """Training loss by optimizer step: each step faint, a running mean strong."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new()
        for number, (label, values) in enumerate(losses.items()):
            color = _ROUND_COLORS[number % len(_ROUND_COLORS)]
            steps = range(1, len(values) + 1)
            axes.plot(steps, values, color=color, alpha=0.3, linewidth=1)
            axes.plot(steps, running_mean(values), color=color, linewidth=2, label=label)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss, nats per target token")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(losses) > 1:
            _legend(axes, "lower left")  # losses do not reach zero
        return _svg(figure)


def running_mean(values: Sequence[float], share: float = 0.1) -> list[float]:
    """Mean over a window of ``share`` of the values, centred and cut at both ends."""
    half = max(1, int(len(values) * share / 2))
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _new() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 4.1), layout="constrained")
    axes: Axes = figure.subplots()
    return figure, axes


def _legend(axes: Axes, place: str, markers: float | None = None) -> None:
    legend = axes.legend(loc=place, frameon=False)
    if markers is not None:  # areas mean counts in the figure, not in the legend
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([markers])


def _leans_left(shares: Mapping[str, Sequence[float]]) -> bool:
    values = [value for each in shares.values() for value in each]
    return sum(values) < len(values) / 2


def _with_alpha(color: str, alpha: float) -> tuple[float, ...]:
    return tuple(to_rgba(color, alpha))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "fastsi"})
    return buffer.getvalue()
