"""Vote, then keep the paths that converged, with guards that need no labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastsi.errors import ConfigError, TemplateCollapse
from fastsi.train.config import SelectConfig
from fastsi.types import Question, Vote
from fastsi.vote import kind_of, parse_rule, replay, weighted_vote
from fastsi.vote.equations import equation_list

CLOSED_KINDS = frozenset({"bool", "choice"})
"""Kinds of answer with few possible values, which therefore repeat across questions."""

_Z = 1.96


def vote_rows(
    paths: Sequence[Mapping[str, Any]],
    weights: str = "uniform",
    stopping: str | None = None,
    n: int | None = None,
) -> list[dict[str, Any]]:
    """One row of ``votes.parquet`` per question, in order of first appearance.

    Args:
        paths: rows of ``paths.parquet``.
        weights: how much a path's vote weighs; one of ``fastsi.vote.SCHEMES``.
        stopping: the rule that the paths were sampled with; replayed for the reason of each stop.
        n: paths per question at most; None: as many as there are.

    Raises:
        ConfigError: the weighting needs token log-probabilities that the rows lack.
    """
    field = "token_logprobs" if weights.startswith("window") else "cumulative_logprob"
    rows = []
    rule = parse_rule(stopping, weights=weights)
    for question_id, group in by_question(paths).items():
        if any(path[field] is None for path in group):
            raise ConfigError(f"weights={weights!r}: the paths were sampled without {field}")
        stop = replay(rule, [path["answer"] for path in group], n)
        group = group[: stop.at]
        outcome = weighted_vote(
            [path["answer"] for path in group],
            logprobs=[path[field] for path in group],
            weights=weights,
            num_tokens=[path["num_tokens"] for path in group],
            stop_reason=stop.reason,
        )
        rows.append(vote_row(question_id, outcome))
    return rows


def vote_row(question_id: str, outcome: Vote) -> dict[str, Any]:
    """A row of ``votes.parquet``."""
    return {
        "question_id": question_id,
        "winner": outcome.winner,
        "counts": [{"answer": a, "votes": v} for a, v in outcome.counts.items()],
        "n": outcome.n,
        "votes": outcome.votes,
        "share": outcome.share,
        "margin": outcome.margin,
        "entropy": outcome.entropy,
        "tie": outcome.tie,
        "stop_reason": outcome.stop_reason,
        "weights": None if outcome.weights is None else list(outcome.weights.values()),
    }


def by_question(paths: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows grouped by question, keeping order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for path in paths:
        groups.setdefault(path["question_id"], []).append(path)
    return groups


def kept_rows(
    paths: Sequence[Mapping[str, Any]],
    votes: Sequence[Mapping[str, Any]],
    config: SelectConfig,
) -> list[Mapping[str, Any]]:
    """The rows of ``paths`` to learn from, in order.

    A question is kept if its winner has at least ``min_share`` of the paths and leads the runner-up
    by ``min_lead`` votes. Of its paths, those with the winning answer are kept, less repetitions,
    up to ``max_paths``.
    """
    winners = decided(votes, config)
    kept: list[Mapping[str, Any]] = []
    for question_id, group in by_question(paths).items():
        if question_id in winners:
            agreeing = [path for path in group if path["answer"] == winners[question_id]]
            kept += _distinct(agreeing, config)
    return kept


def decided(votes: Sequence[Mapping[str, Any]], config: SelectConfig) -> dict[str, str]:
    """The winner of each question whose vote was clear enough."""
    return {
        vote["question_id"]: vote["winner"]
        for vote in votes
        if vote["winner"] is not None
        and vote["share"] >= config.min_share
        and (vote["margin"] >= config.min_lead or config.min_lead == 0)
    }


def _distinct(paths: Sequence[Mapping[str, Any]], config: SelectConfig) -> list[Mapping[str, Any]]:
    seen: set[object] = set()
    kept: list[Mapping[str, Any]] = []
    for path in paths:
        if config.finished_only and path["finish_reason"] != "stop":
            continue
        if config.distinct_equations:
            # Reasoning without equations is compared by its words, or all of it would be one path.
            key = equation_list(path["text"]) or " ".join(path["text"].split())
            if key in seen:
                continue
            seen.add(key)
        kept.append(path)
        if config.max_paths is not None and len(kept) == config.max_paths:
            break
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Concentration:
    """How often the most common winner won, among questions of one kind."""

    closed: bool
    """Whether the kind is one that repeats by nature (choice letters, yes and no)."""
    answer: str
    """Its canonical key."""
    wins: int
    """Questions it won."""
    questions: int
    """Distinct question texts with a winner of this kind."""

    @property
    def share(self) -> float:
        """``wins / questions``."""
        return self.wins / self.questions

    @property
    def sure_share(self) -> float:
        """Lower end of the 95 % Wilson interval of ``share``: few questions prove nothing."""
        n, p = self.questions, self.share
        centre = p + _Z * _Z / (2 * n)
        spread = _Z * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
        return (centre - spread) / (1 + _Z * _Z / n)


def concentrations(
    votes: Sequence[Mapping[str, Any]], questions: Sequence[Question]
) -> list[Concentration]:
    """The most common winner among open and among closed answers, where there are any.

    Questions with the same text count once: their answers should be equal.
    """
    texts = {question.id: " ".join(question.question.split()) for question in questions}
    winners: dict[bool, dict[str, str]] = {}
    for vote in votes:
        if vote["winner"] is not None:
            closed = kind_of(vote["winner"]) in CLOSED_KINDS
            winners.setdefault(closed, {})[texts[vote["question_id"]]] = vote["winner"]
    found = []
    for closed in sorted(winners):
        counts = Counter(winners[closed].values())
        answer, wins = min(counts.items(), key=lambda item: (-item[1], item[0]))
        found.append(
            Concentration(closed=closed, answer=answer, wins=wins, questions=len(winners[closed]))
        )
    return found


def check_collapse(
    votes: Sequence[Mapping[str, Any]],
    questions: Sequence[Question],
    config: SelectConfig,
    round_index: int,
) -> list[Concentration]:
    """Stop a round that would teach one answer to every question.

    Self-training on hard questions can fall into answering the same thing whatever is asked, and
    its own votes then look perfect. Open answers (numbers, text) rarely repeat across questions;
    letters and yes/no do, so they have their own, higher limit. The share must exceed the limit
    surely (95 % interval), so that a handful of questions raises no false alarm.

    Raises:
        TemplateCollapse: one answer wins too many questions.
    """
    found = concentrations(votes, questions)
    for item in found:
        name = "collapse_share_closed" if item.closed else "collapse_share"
        limit = getattr(config, name)
        if item.sure_share > limit:
            raise TemplateCollapse(
                f"round {round_index}: the answer {item.answer!r} wins {item.wins} of "
                f"{item.questions} different questions ({item.share:.0%}; limit {limit:.0%}): the "
                "model answers the same whatever is asked, and training would teach that; use "
                "easier questions, fewer rounds or a lower temperature, or raise "
                f"select.{name} if the true answers do repeat like this"
            )
    return found
