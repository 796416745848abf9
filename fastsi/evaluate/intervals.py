"""95 % intervals: Wilson for a share of questions, bootstrap by question for everything else.

The question is the unit of chance. Paths of one question are alike, so an interval that counted
every path as a draw of its own would be far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
DRAWS = 2000
"""Bootstrap resamples: the ends of a 95 % interval then rest on 50 resamples each."""
_BLOCK = 4_000_000
"""Random indices held at once: bounds memory for large data sets."""


def wilson(successes: int, total: int) -> Interval:
    """Wilson score interval of a proportion; (0, 1) for no trials.

    Raises:
        ValueError: not 0 <= successes <= total.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes={successes}, total={total}: need 0 <= successes <= total")
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    spread = Z_95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # Rounding may leave the ends a hair outside the proportion at 0 and at 1.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def bootstrap_mean(values: Sequence[float] | NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean of one value per question.

    Args:
        values: [n] one value per question; n >= 1.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("values: need at least one question")
    random = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    step = max(1, _BLOCK // data.size)
    for begin in range(0, DRAWS, step):
        end = min(begin + step, DRAWS)
        chosen = random.integers(0, data.size, size=(end - begin, data.size))
        means[begin:end] = data[chosen].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_difference(
    before: Sequence[float] | NDArray[np.float64],
    after: Sequence[float] | NDArray[np.float64],
    *,
    seed: int = 0,
) -> Interval:
    """Interval of mean(after) - mean(before), paired: entry i of both is the same question.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    first = np.asarray(before, dtype=np.float64)
    second = np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"before has {first.size} questions, after has {second.size}")
    return bootstrap_mean(second - first, seed=seed)
