"""Majority vote over canonical keys, with abstention and an explicit tie rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fastsi.errors import ConfigError
from fastsi.types import Vote, check_known
from fastsi.vote.extract import EXTRACTORS, answer_key


def vote(
    texts: Sequence[str],
    *,
    logprobs: Sequence[float] | None = None,
    n: int | None = None,
    stop_reason: str = "full",
    extractor: str = "auto",
    last_number: bool = False,
) -> Vote:
    """Vote over the responses to one question.

    Args:
        texts: the responses, in path order.
        logprobs: summed log-probability of each response, in nats; settles ties.
        n: paths sampled, where some are not in ``texts``; those abstain. Default ``len(texts)``.
        stop_reason: recorded in the result.
        extractor: one of `fastsi.vote.EXTRACTORS`.
        last_number: fall back to the last number of a response.

    Raises:
        ConfigError: unknown extractor, ``logprobs`` of another length, or ``n < len(texts)``.
    """
    check_known([extractor], EXTRACTORS, "extractor")  # also where there is no text to read
    keys = [answer_key(text, extractor=extractor, last_number=last_number) for text in texts]
    return majority(keys, logprobs, n=n, stop_reason=stop_reason)


def majority(
    keys: Sequence[str | None],
    logprobs: Sequence[float] | None = None,
    *,
    n: int | None = None,
    stop_reason: str = "full",
) -> Vote:
    """Vote over canonical keys; None abstains and never wins.

    The winner has most votes; among equals the greater summed log-probability of its paths, then
    the lowest path index. ``counts`` is in that same order. A NaN log-probability counts as -inf.

    Raises:
        ConfigError: ``logprobs`` of another length than ``keys``, or ``n < len(keys)``.
    """
    if logprobs is not None and len(logprobs) != len(keys):
        raise ConfigError(f"logprobs: {len(logprobs)} values for {len(keys)} paths; give one each")
    if n is None:
        n = len(keys)
    elif n < len(keys):
        raise ConfigError(f"n={n}: must be at least the number of paths given, {len(keys)}")
    counts: dict[str, int] = {}
    weights: dict[str, list[float]] = {}
    for index, key in enumerate(keys):
        if key is None:
            continue
        counts[key] = counts.get(key, 0) + 1  # insertion order is order of the first path
        value = 0.0 if logprobs is None else float(logprobs[index])
        weights.setdefault(key, []).append(-math.inf if math.isnan(value) else value)
    # fsum: the sum, and so the winner, does not depend on the order of a key's paths.
    weight = {key: _total(values) for key, values in weights.items()}
    ranked = sorted(counts, key=lambda key: (-counts[key], -weight[key]))  # stable: first path wins
    if not ranked:
        return Vote(
            winner=None, counts={}, n=n, votes=0, share=0.0, margin=0, entropy=0.0, tie=False,
            stop_reason=stop_reason, keys=tuple(keys),
        )  # fmt: skip
    votes = sum(counts.values())
    lead = counts[ranked[0]]
    second = counts[ranked[1]] if len(ranked) > 1 else 0
    return Vote(
        winner=ranked[0],
        counts={key: counts[key] for key in ranked},
        n=n,
        votes=votes,
        share=lead / n,
        margin=lead - second,
        entropy=_entropy(counts.values(), votes),
        tie=lead == second,
        stop_reason=stop_reason,
        keys=tuple(keys),
    )


def _total(values: list[float]) -> float:
    return -math.inf if -math.inf in values else math.fsum(values)


def _entropy(counts: Iterable[int], votes: int) -> float:
    """Entropy in nats of the answers' shares."""
    return math.fsum(c / votes * math.log(votes / c) for c in counts)
