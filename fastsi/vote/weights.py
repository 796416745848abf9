"""How much each path's vote weighs, from log-probabilities that the sampler returns.

Let l[i][t] be the natural log-probability of token t of path i, L[i] the path's number of tokens,
s[i] = sum_t l[i][t] and m[i] = s[i] / L[i]. Over the n paths of one question, with
softmax(x)[i] = exp(x[i]) / sum_j exp(x[j]), the weights are

=================  ==============================================================================
``uniform``        w[i] = 1: the plain vote (self-consistency; Wang et al. 2022, arXiv 2203.11171)
``logprob_sum``    w = n softmax(s): proportional to the path's probability (ibid., table 1,
                   "weighted sum, unnormalized")
``logprob_mean``   w = n softmax(m): proportional to the geometric mean of its tokens'
                   probabilities (ibid., "weighted sum, normalized")
``cisc:T``         w = n softmax(m / T), T > 0 (CISC; Taubenfeld et al. 2025, arXiv 2502.06233).
                   The paper divides the probability exp(m) by T; dividing m itself makes T = 1 the
                   row above, and a small T follows the likeliest path
``window:W``       the path's least confident window of W >= 1 tokens in a row (DeepConf; Fu et al.
                   2025, arXiv 2508.15260, "lowest group confidence"); a shorter path is one window
=================  ==============================================================================

``window:W`` with confidences at hand (`token_confidences`: c[t] = -mean of the k greatest
log-probabilities at t, as in the paper, where k = 20) is the paper's weight: w proportional to
g[i] = min over windows of mean(c). Where only the sampled token's log-probability is at hand, g is
the least mean of l over windows instead, and w = n softmax(g): the geometric mean probability of
the window in which the path was least sure. That differs from the paper: it sees how likely the
drawn token was and not how peaked the distribution was, so a lucky run of drawn tokens looks
confident.

Weights are scaled so that they sum to n; the winner does not depend on the scale. A score that is
NaN counts as -inf and weighs 0; where every score is -inf, all paths weigh 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fastsi.errors import ConfigError
from fastsi.types import Logprob, check_known

SCHEMES = ("uniform", "logprob_sum", "logprob_mean", "cisc:T", "window:W")
"""What ``weights`` may be; T is a number, W a number of tokens."""

PathLogprob: TypeAlias = "float | Sequence[float]"
"""A path's summed log-probability in nats, or those of its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightConfig:
    """A weighting, read from its name."""

    name: str
    """One of ``uniform``, ``logprob_sum``, ``logprob_mean``, ``cisc``, ``window``."""
    temperature: float = 1.0
    """Of ``cisc``."""
    window: int = 1
    """Of ``window``, in tokens."""

    @classmethod
    def parse(cls, text: str) -> WeightConfig:
        """Read one of `SCHEMES`, such as ``cisc:0.5``.

        Raises:
            ConfigError: unknown name, or a parameter that is missing, malformed or out of range.
        """
        if not isinstance(text, str):
            raise ConfigError(f"weights={text!r}: must be one of {', '.join(SCHEMES)}")
        name, colon, parameter = text.partition(":")
        names = [scheme.partition(":")[0] for scheme in SCHEMES]
        check_known([name], names, f"weights (one of {', '.join(SCHEMES)})")
        if name == "cisc":
            temperature = _number(parameter)
            if not 0.0 < temperature < math.inf:
                raise ConfigError(f"weights={text!r}: write cisc:T with a finite number T > 0")
            return cls(name=name, temperature=temperature)
        if name == "window":
            if not (parameter.isascii() and parameter.isdecimal() and int(parameter) > 0):
                raise ConfigError(f"weights={text!r}: write window:W with W >= 1 tokens")
            return cls(name=name, window=int(parameter))
        if colon:
            raise ConfigError(f"weights={text!r}: {name} takes no parameter")
        return cls(name=name)

    def score(
        self,
        logprob: PathLogprob,
        num_tokens: int | None = None,
        confidences: Sequence[float] | None = None,
    ) -> float:
        """What `weigh` compares, from one path alone: s, m or g of the module's formulas.

        Arguments are those of `path_weights`, for one path.

        Raises:
            ConfigError: the weighting needs what is not given.
        """
        if self.name == "logprob_sum":
            return total(logprob)
        if self.name == "window":
            if confidences is not None:
                return _least_window(confidences, self.window)
            if isinstance(logprob, int | float):
                raise ConfigError(f"weights='window:{self.window}': {_NEEDS_TOKENS}, not their sum")
            return _least_window(logprob, self.window)
        if self.name == "uniform":
            return 0.0
        if not isinstance(logprob, int | float):
            num_tokens = len(logprob)
        elif num_tokens is None:
            raise ConfigError(f"weights={self.name!r}: {_NEEDS_TOKENS}, or num_tokens")
        return total(logprob) / num_tokens if num_tokens > 0 else -math.inf

    def weigh(self, scores: Sequence[float], *, linear: bool = False) -> list[float] | None:
        """Weights of the paths of one question from their scores; None if each weighs 1.

        Args:
            scores: of every path.
            linear: scores are confidences, and weigh themselves.

        Raises:
            ConfigError: a score is +inf.
        """
        if self.name == "uniform":
            return None
        return _proportional(scores) if linear else softmax(scores, self.temperature)


_NEEDS_TOKENS = "needs the log-probability of every token"


def path_weights(
    weights: str | WeightConfig,
    logprobs: Sequence[PathLogprob] | None,
    *,
    num_tokens: Sequence[int] | None = None,
    confidences: Sequence[Sequence[float]] | None = None,
) -> list[float] | None:
    """Weight of each path of one question; see the module for the formulas.

    Args:
        weights: one of `SCHEMES`.
        logprobs: per path its summed log-probability, or its tokens' (nats).
        num_tokens: per path its number of tokens; needed by ``logprob_mean`` and ``cisc`` where
            ``logprobs`` are sums.
        confidences: per path the confidence of each of its tokens (`token_confidences`); used by
            ``window``.

    Returns:
        Weights that sum to the number of paths; None for ``uniform``: every path weighs 1.

    Raises:
        ConfigError: what the weighting needs is missing or of another length, or a score is +inf.
    """
    config = weights if isinstance(weights, WeightConfig) else WeightConfig.parse(weights)
    if config.name == "uniform":
        return None
    if config.name == "window" and confidences is not None:
        scores = [config.score(0.0, None, each) for each in confidences]
        return config.weigh(scores, linear=True)
    if logprobs is None:
        raise ConfigError(f"weights={config.name!r}: needs the paths' log-probabilities")
    lengths: Sequence[int | None] = [None] * len(logprobs) if num_tokens is None else num_tokens
    if len(lengths) != len(logprobs):
        raise ConfigError(f"num_tokens: {len(lengths)} values for {len(logprobs)} paths")
    return config.weigh(
        [config.score(path, length) for path, length in zip(logprobs, lengths, strict=True)]
    )


def softmax(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    """n exp(x[i] / T) / sum_j exp(x[j] / T) for n scores; NaN counts as -inf.

    Sums are correctly rounded, so a path's weight does not depend on the order of paths.

    Raises:
        ConfigError: a score is +inf.
    """
    if not scores:
        return []
    x = np.asarray(scores, dtype=np.float64)
    x = np.where(np.isnan(x), -np.inf, x)
    most = x.max()
    if most == np.inf:
        raise ConfigError("weights: a path's log-probability is +inf")
    if most == -np.inf:
        return [1.0] * len(scores)
    with np.errstate(over="ignore"):  # a tiny temperature sends differences to -inf, weight 0
        powers = np.exp((x - most) / temperature)
    return _scaled(powers)


def token_confidences(logprobs: Iterable[Mapping[int, Logprob]], k: int) -> list[float]:
    """Confidence of each token of a path: -mean of the ``k`` greatest log-probabilities there.

    Args:
        logprobs: ``CompletionOutput.logprobs``: per token the most likely ones (and the sampled
            one, which is left out where it is not among the ``k``).
        k: ``SamplingParams.logprobs``, at least 2: with one, certainty would look like doubt.

    Raises:
        ConfigError: ``k < 2``, or a token with fewer than ``k`` log-probabilities.
    """
    if k < 2:
        raise ConfigError(f"logprobs={k}: token confidence needs the 2 most likely tokens or more")
    found = []
    for entries in logprobs:
        values = sorted((entry.logprob for entry in entries.values()), reverse=True)[:k]
        if len(values) < k:
            raise ConfigError(f"logprobs: {len(values)} values at a token where {k} were asked for")
        found.append(-math.fsum(values) / k)
    return found


def total(path: PathLogprob) -> float:
    """A path's summed log-probability, correctly rounded; NaN anywhere makes it -inf."""
    values = [float(path)] if isinstance(path, int | float) else [float(each) for each in path]
    if any(math.isnan(value) for value in values) or -math.inf in values:
        return -math.inf
    try:
        return math.fsum(values)
    except OverflowError:
        return -math.inf if sum(values) < 0 else math.inf


def _least_window(values: Sequence[float], window: int) -> float:
    """Least mean of ``window`` consecutive values; of all of them where there are fewer."""
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0 or np.isnan(x).any() or (x == -np.inf).any():
        return -math.inf
    if x.size <= window:
        return float(x.mean())
    sums = np.concatenate(([0.0], np.cumsum(x)))
    return float(((sums[window:] - sums[:-window]) / window).min())


def _proportional(scores: Sequence[float]) -> list[float]:
    """Scores themselves as weights; what is negative, -inf or NaN weighs 0."""
    values = np.array([score if score > 0.0 else 0.0 for score in scores])
    if np.isinf(values).any():
        raise ConfigError("confidences: a path's confidence is +inf")
    return _scaled(values / values.max()) if values.any() else [1.0] * len(scores)


def _scaled(weights: np.ndarray) -> list[float]:
    mean = math.fsum(weights.tolist()) / len(weights)
    return [float(weight / mean) for weight in weights]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
