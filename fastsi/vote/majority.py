"""Majority vote over canonical keys, with abstention and an explicit tie rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fastsi.errors import ConfigError
from fastsi.types import Vote
from fastsi.vote.extract import answer_keys
from fastsi.vote.symbolic import merged_keys
from fastsi.vote.weights import PathLogprob, WeightConfig, path_weights, total


def vote(
    texts: Sequence[str],
    *,
    logprobs: Sequence[PathLogprob] | None = None,
    weights: str | WeightConfig | Sequence[float] = "uniform",
    num_tokens: Sequence[int] | None = None,
    confidences: Sequence[Sequence[float]] | None = None,
    n: int | None = None,
    stop_reason: str = "full",
    extractor: str = "auto",
    last_number: bool = False,
    symbolic: bool = False,
) -> Vote:
    """Vote over the responses to one question.

    Args:
        texts: the responses, in path order.
        logprobs: per response its summed log-probability or those of its tokens, in nats; settles
            ties, and weighs paths.
        weights: a name from `fastsi.vote.SCHEMES`, or one weight per response.
        num_tokens: tokens per response, for weights by mean where ``logprobs`` are sums.
        confidences: per response its tokens' confidences (`fastsi.vote.token_confidences`), for
            ``window:W``.
        n: paths sampled, where some are not in ``texts``; those abstain. Default ``len(texts)``.
        stop_reason: recorded in the result.
        extractor: one of `fastsi.vote.EXTRACTORS`.
        last_number: fall back to the last number of a response.
        symbolic: merge opaque answers that algebra proves equal (`fastsi.vote.symbolic`); takes
            milliseconds to seconds.

    Raises:
        ConfigError: unknown extractor or weighting, something with another length than ``texts``,
            ``n < len(texts)``, or ``symbolic`` without math-verify installed.
    """
    keys = answer_keys(texts, extractor=extractor, last_number=last_number)
    if symbolic:
        keys = merged_keys(keys)
    return weighted_vote(
        keys,
        logprobs=logprobs,
        weights=weights,
        num_tokens=num_tokens,
        confidences=confidences,
        n=n,
        stop_reason=stop_reason,
    )


def weighted_vote(
    keys: Sequence[str | None],
    *,
    logprobs: Sequence[PathLogprob] | None = None,
    weights: str | WeightConfig | Sequence[float] = "uniform",
    num_tokens: Sequence[int] | None = None,
    confidences: Sequence[Sequence[float]] | None = None,
    n: int | None = None,
    stop_reason: str = "full",
) -> Vote:
    """`vote` where the keys are known; arguments and errors as there."""
    for name, values in (("logprobs", logprobs), ("confidences", confidences)):
        if values is not None and len(values) != len(keys):
            raise ConfigError(f"{name}: {len(values)} values for {len(keys)} paths; give one each")
    return majority(
        keys,
        None if logprobs is None else [total(path) for path in logprobs],
        weights=path_weights(weights, logprobs, num_tokens=num_tokens, confidences=confidences)
        if isinstance(weights, str | WeightConfig)
        else weights,
        n=n,
        stop_reason=stop_reason,
    )


def majority(
    keys: Sequence[str | None],
    logprobs: Sequence[float] | None = None,
    *,
    weights: Sequence[float] | None = None,
    n: int | None = None,
    stop_reason: str = "full",
) -> Vote:
    """Vote over canonical keys; None abstains and never wins.

    The winner has the greatest weight, which without ``weights`` is its number of votes; among
    equals it is the one with more votes, then with the greater summed log-probability of its paths,
    then with the lowest path index. ``counts`` is in that same order. A NaN log-probability counts
    as -inf.

    Args:
        keys: canonical key of each path.
        logprobs: summed log-probability of each path, nats.
        weights: weight of each path, abstaining ones included; at least 0. Only their ratios
            matter: they are scaled to sum to ``len(keys)``; a path that is not given weighs 1.
        n: paths sampled; default ``len(keys)``.
        stop_reason: recorded in the result.

    Raises:
        ConfigError: ``logprobs`` or ``weights`` of another length than ``keys``, a weight that is
            negative or not finite, weights that are all 0, or ``n < len(keys)``.
    """
    if logprobs is not None and len(logprobs) != len(keys):
        raise ConfigError(f"logprobs: {len(logprobs)} values for {len(keys)} paths; give one each")
    if n is None:
        n = len(keys)
    elif n < len(keys):
        raise ConfigError(f"n={n}: must be at least the number of paths given, {len(keys)}")
    scaled = None if weights is None else _scaled(weights, len(keys))
    counts: dict[str, int] = {}
    for key in keys:
        if key is not None:
            counts[key] = counts.get(key, 0) + 1  # insertion order is order of the first path
    likelihood = _sums(keys, [0.0] * len(keys) if logprobs is None else logprobs)
    weight: dict[str, float] = dict(counts) if scaled is None else _sums(keys, scaled)

    def rank(key: str) -> tuple[float, int, float]:
        return -weight[key], -counts[key], -likelihood[key]

    ranked = sorted(counts, key=rank)  # stable: the first path wins
    if not ranked:
        return Vote(
            winner=None, counts={}, n=n, votes=0, share=0.0, margin=0, entropy=0.0, tie=False,
            stop_reason=stop_reason, keys=tuple(keys), weights=None if scaled is None else {},
        )  # fmt: skip
    return Vote(
        winner=ranked[0],
        counts={key: counts[key] for key in ranked},
        n=n,
        votes=sum(counts.values()),
        share=min(1.0, weight[ranked[0]] / n),
        margin=counts[ranked[0]] - max((counts[key] for key in ranked[1:]), default=0),
        entropy=_entropy(weight.values()),
        tie=len(ranked) > 1 and weight[ranked[0]] == weight[ranked[1]],
        stop_reason=stop_reason,
        keys=tuple(keys),
        weights=None if scaled is None else {key: weight[key] for key in ranked},
    )


def _scaled(weights: Sequence[float], count: int) -> list[float]:
    values = [float(weight) for weight in weights]
    if len(values) != count:
        raise ConfigError(f"weights: {len(values)} values for {count} paths; give one each")
    for index, value in enumerate(values):
        if not 0.0 <= value < math.inf:
            raise ConfigError(f"weights[{index}]={value!r}: must be a finite number >= 0")
    if not values:
        return []
    most = max(values)
    if most == 0.0:
        raise ConfigError("weights: all are 0; at least one path must weigh something")
    # Through the greatest one, so that no sum overflows. Equal weights become 1 exactly.
    mean = math.fsum(value / most for value in values) / count
    return [value / most / mean for value in values]


def _sums(keys: Sequence[str | None], values: Sequence[float]) -> dict[str, float]:
    """Sum of values per key; it does not depend on the order of a key's paths."""
    parts: dict[str, list[float]] = {}
    for key, value in zip(keys, values, strict=True):
        if key is not None:
            parts.setdefault(key, []).append(value)
    return {key: total(part) for key, part in parts.items()}


def _entropy(weights: Iterable[float]) -> float:
    """Entropy in nats of the answers' shares; what weighs nothing adds nothing."""
    found = [weight for weight in weights if weight > 0.0]
    whole = math.fsum(found)
    return math.fsum(weight / whole * math.log(whole / weight) for weight in found)
