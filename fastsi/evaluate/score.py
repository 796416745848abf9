"""Scores of sampled paths against gold answers, and what changed between two evaluations.

Every accuracy is over all questions: a path or a question without an answer is wrong. Equality of
answers is equality of canonical keys (``fastsi.vote``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastsi import vote
from fastsi.errors import DataError
from fastsi.evaluate.calibration import Calibration, calibrate
from fastsi.evaluate.gold import GoldAnswer
from fastsi.evaluate.intervals import Interval, bootstrap_difference, bootstrap_mean, wilson
from fastsi.vote.equations import equations

METRICS = ("greedy", "sample", "majority", "consistency", "parse_rate")
"""Measures that every evaluation has; each is a mean over questions of a value in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredQuestion:
    """What one question contributes to every measure."""

    id: str
    gold: str
    """Canonical key of the right answer."""
    greedy_answer: str | None
    """Canonical key of the greedy path; None: abstained."""
    winner: str | None
    """Canonical key of the majority; None: every path abstained."""
    paths: int
    """Sampled paths."""
    correct: int
    """Sampled paths with the right answer."""
    parsed: int
    """Sampled paths with an answer."""
    share: float
    """Votes of the winner over ``paths``."""
    with_equations: int
    """Sampled paths with at least one explicit equation."""
    equations_true: int
    """Sampled paths with at least one explicit equation, all of them true."""

    def value(self, metric: str) -> float:
        """This question's value of a measure of ``METRICS``, in [0, 1]."""
        match metric:
            case "greedy":
                return float(self.greedy_answer == self.gold)
            case "sample":
                return self.correct / self.paths
            case "majority":
                return float(self.winner == self.gold)
            case "consistency":
                return self.share
            case "parse_rate":
                return self.parsed / self.paths
        raise ValueError(f"metric={metric!r}: must be one of {', '.join(METRICS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one model on one set of problems. All rates are fractions of 1."""

    n_problems: int
    paths: int
    """Sampled paths per problem."""
    greedy: float
    """Accuracy of the greedy path."""
    sample: float
    """Accuracy of one sampled path: the mean over all of them."""
    majority: float
    """Accuracy of the vote over ``paths`` paths."""
    consistency: float
    """Mean vote share of the winner."""
    parse_rate: float
    """Share of sampled paths with an answer."""
    equations_true: float | None
    """Of the sampled paths with explicit equations, those where all are true; None: no path."""
    with_equations: float
    """Share of sampled paths with at least one explicit equation."""
    counts: Mapping[str, int]
    """Numerators: problems (greedy, majority) or paths (the others)."""
    intervals: Mapping[str, Interval]
    """95 % interval of each measure: Wilson for greedy and majority, bootstrap for the others."""
    pass_at: Mapping[int, float]
    """k to the chance that one of k sampled paths is right."""
    calibration: Calibration
    """Accuracy of the majority by vote share."""

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers; keys of ``pass_at`` become strings."""
        record = dataclasses.asdict(self)
        record["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        record["pass_at"] = {str(k): value for k, value in self.pass_at.items()}
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Change of one measure between two evaluations of the same questions."""

    change: float
    """After minus before, in fractions of 1."""
    low: float
    """Lower end of the 95 % interval of the change, bootstrap over paired questions."""
    high: float
    """Upper end."""


def score_question(
    question_id: str,
    gold: GoldAnswer,
    greedy_text: str,
    texts: Sequence[str],
    logprobs: Sequence[float],
    *,
    extractor: str = "auto",
) -> ScoredQuestion:
    """Score one question from its greedy path and its sampled paths.

    Args:
        question_id: id of the question.
        gold: its right answer.
        greedy_text: response at temperature 0.
        texts: responses of the sampled paths, at least one.
        logprobs: summed log-probability of each, nats; settles tied votes.
        extractor: how the answer is found; one of ``fastsi.vote.EXTRACTORS``.

    Raises:
        ValueError: no sampled path, or as many log-probs as texts are not given.
    """
    if not texts or len(texts) != len(logprobs):
        raise ValueError(f"{question_id}: {len(texts)} texts and {len(logprobs)} log-probs")
    outcome = vote.vote(list(texts), logprobs=list(logprobs), extractor=extractor)
    checks = [[each.true for each in equations(text)] for text in texts]
    return ScoredQuestion(
        id=question_id,
        gold=gold.key,
        greedy_answer=vote.answer_key(greedy_text, extractor=extractor),
        winner=outcome.winner,
        paths=len(texts),
        correct=outcome.counts.get(gold.key, 0),
        parsed=outcome.votes,
        share=outcome.share,
        with_equations=sum(bool(check) for check in checks),
        equations_true=sum(bool(check) and all(check) for check in checks),
    )


def summarise(
    rows: Sequence[ScoredQuestion], *, pass_at: Sequence[int] = (), bins: int = 10
) -> Evaluation:
    """Aggregate scored questions.

    Args:
        rows: one per question, at least one, all with the same number of paths.
        pass_at: values of k for pass@k, each at most the number of paths.
        bins: equal-width bins of the vote share in the calibration table.

    Raises:
        ValueError: no rows, rows with different numbers of paths, or k out of range.
    """
    if not rows:
        raise ValueError("rows: need at least one scored question")
    paths = rows[0].paths
    if any(row.paths != paths for row in rows):
        raise ValueError("rows: every question must have the same number of paths")
    values = {name: [row.value(name) for row in rows] for name in METRICS}
    count = len(rows)
    counts = {
        "greedy": round(sum(values["greedy"])),
        "sample": sum(row.correct for row in rows),
        "majority": round(sum(values["majority"])),
        "parse_rate": sum(row.parsed for row in rows),
        "with_equations": sum(row.with_equations for row in rows),
        "equations_true": sum(row.equations_true for row in rows),
    }
    intervals = {
        name: wilson(counts[name], count)
        if name in ("greedy", "majority")
        else bootstrap_mean(values[name])
        for name in METRICS
    }
    written = counts["with_equations"]
    return Evaluation(
        n_problems=count,
        paths=paths,
        **{name: math.fsum(values[name]) / count for name in METRICS},
        equations_true=counts["equations_true"] / written if written else None,
        with_equations=written / (count * paths),
        counts=counts,
        intervals=intervals,
        pass_at={k: math.fsum(_pass_at(row, k) for row in rows) / count for k in pass_at},
        calibration=calibrate(
            [row.share for row in rows], [row.winner == row.gold for row in rows], bins=bins
        ),
    )


def compare(
    before: Sequence[ScoredQuestion], after: Sequence[ScoredQuestion]
) -> dict[str, Difference]:
    """Change of every measure of ``METRICS``, with a paired bootstrap interval.

    Raises:
        DataError: the two evaluations are not of the same questions.
    """
    later = {row.id: row for row in after}
    if {row.id for row in before} != set(later) or len(before) != len(after):
        raise DataError(
            f"cannot compare evaluations of different questions ({len(before)} before, "
            f"{len(after)} after); evaluate both on one file"
        )
    result = {}
    for name in METRICS:
        first = [row.value(name) for row in before]
        second = [later[row.id].value(name) for row in before]
        low, high = bootstrap_difference(first, second)
        change = (math.fsum(second) - math.fsum(first)) / len(first)
        result[name] = Difference(change=change, low=low, high=high)
    return result


def _pass_at(row: ScoredQuestion, k: int) -> float:
    """Unbiased chance that k of the row's paths, drawn without replacement, hold a right one."""
    if not 1 <= k <= row.paths:
        raise ValueError(f"pass_at={k}: must be in 1..{row.paths}, the number of paths")
    return 1.0 - math.comb(row.paths - row.correct, k) / math.comb(row.paths, k)
