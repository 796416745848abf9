"""Definition of `vote_answers`: decode every path, take its key, count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from fastsi.ops.token_bytes import TokenBytes
from fastsi.ops.vote_answers.result import AnswerVotes, VoteOptions


class _Answer(NamedTuple):
    """One answer of a group; the fields before ``key`` are in the order in which they rank."""

    weight: float
    votes: int
    likelihood: float
    key: int


def vote_answers(
    tokens: torch.Tensor,
    path_indptr: torch.Tensor,
    group_indptr: torch.Tensor,
    table: TokenBytes,
    answer_key: Callable[[str], str | None],
    options: VoteOptions,
    logprobs: torch.Tensor | None,
    weights: torch.Tensor | None,
) -> AnswerVotes:
    """See `fastsi.ops.vote_answers`."""
    spans = zip(path_indptr.tolist()[:-1], path_indptr.tolist()[1:], strict=True)
    found = [answer_key(table.decode(tokens[a:b].tolist())) for a, b in spans]
    known = {key: i for i, key in enumerate(dict.fromkeys(k for k in found if k is not None))}
    ids = [-1 if key is None else known[key] for key in found]
    likelihood = [0.0] * len(ids) if logprobs is None else logprobs.tolist()
    groups = list(zip(group_indptr.tolist()[:-1], group_indptr.tolist()[1:], strict=True))
    ranked = []
    for group, (a, b) in enumerate(groups):
        scale = [1.0] * (b - a) if weights is None else _scaled(weights[a:b].tolist(), group)
        ranked.append(_ranked(ids[a:b], scale, likelihood[a:b]))
    best = [answers[0] if answers else _Answer(0.0, 0, 0.0, -1) for answers in ranked]
    margin = [
        top.votes - max((answer.votes for answer in answers[1:]), default=0)
        for top, answers in zip(best, ranked, strict=True)
    ]
    share = [
        min(1.0, top.weight / (b - a)) if top.votes else 0.0
        for top, (a, b) in zip(best, groups, strict=True)
    ]
    keep = [False] * len(ids)
    for (a, b), top, lead, part in zip(groups, best, margin, share, strict=True):
        clear = top.votes > 0 and lead >= options.min_lead and part >= options.min_share
        keep[a:b] = [clear and i == top.key for i in ids[a:b]]
    flat = [answer for answers in ranked for answer in answers]
    i32, f64 = torch.int32, torch.float64
    return AnswerVotes(
        keys=list(known),
        key_id=torch.tensor(ids, dtype=i32),
        keep=torch.tensor(keep, dtype=torch.bool),
        winner=torch.tensor([top.key for top in best], dtype=i32),
        votes=torch.tensor([sum(a.votes for a in answers) for answers in ranked], dtype=i32),
        share=torch.tensor(share, dtype=f64),
        margin=torch.tensor(margin, dtype=i32),
        entropy=torch.tensor([_entropy(answers) for answers in ranked], dtype=f64),
        tie=torch.tensor([len(a) > 1 and a[0].weight == a[1].weight for a in ranked]).bool(),
        answer_indptr=torch.tensor([0, *map(len, ranked)]).cumsum(0),
        answer_key=torch.tensor([answer.key for answer in flat], dtype=i32),
        answer_count=torch.tensor([answer.votes for answer in flat], dtype=i32),
        answer_weight=torch.tensor([answer.weight for answer in flat], dtype=f64),
        group_indptr=group_indptr,
        weighted=weights is not None,
    )


def _ranked(
    ids: Sequence[int], weights: Sequence[float], likelihood: Sequence[float]
) -> list[_Answer]:
    """The answers of one group: by weight, then votes, then log-probability, then first path."""
    paths: dict[int, list[int]] = {}
    for path, key in enumerate(ids):
        if key >= 0:
            paths.setdefault(key, []).append(path)
    answers = [
        _Answer(
            math.fsum(weights[path] for path in mine),
            len(mine),
            _total([likelihood[path] for path in mine]),
            key,
        )
        for key, mine in paths.items()
    ]
    return sorted(answers, key=lambda answer: answer[:3], reverse=True)  # stable


def _total(values: Sequence[float]) -> float:
    lost = any(math.isnan(value) or value == -math.inf for value in values)
    return -math.inf if lost else math.fsum(values)


def _scaled(weights: Sequence[float], group: int) -> list[float]:
    """Weights that sum to their number."""
    if not all(0.0 <= weight < math.inf for weight in weights):
        raise ValueError(f"weights: of group {group} must be finite numbers >= 0")
    most = max(weights, default=1.0)
    if most == 0.0:
        raise ValueError(f"weights: all of group {group} are 0; at least one must weigh something")
    mean = math.fsum(weight / most for weight in weights) / max(len(weights), 1)
    return [weight / most / mean for weight in weights]


def _entropy(answers: Sequence[_Answer]) -> float:
    whole = math.fsum(answer.weight for answer in answers)
    parts = [answer.weight for answer in answers if answer.weight > 0.0]
    return math.fsum(part / whole * math.log(whole / part) for part in parts)
