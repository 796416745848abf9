"""Calibration: how often the majority is right, by the share of paths that voted for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastsi.evaluate.intervals import Interval, wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Questions whose vote share lies in (low, high]; the first bin also holds a share of 0."""

    low: float
    high: float
    count: int
    """Questions in the bin."""
    correct: int
    """Questions in the bin whose majority is right."""
    mean_share: float | None
    """Mean vote share in the bin; None if it is empty."""
    accuracy: float | None
    """``correct / count``; None if it is empty."""
    interval: Interval | None
    """95 % Wilson interval of the accuracy; None if it is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Table of bins and its summary."""

    bins: tuple[CalibrationBin, ...]
    ece: float
    """Expected calibration error: mean of |accuracy - mean share| over bins, weighted by count."""


def calibrate(shares: Sequence[float], correct: Sequence[bool], *, bins: int = 10) -> Calibration:
    """Bin questions by vote share into equal-width bins.

    Args:
        shares: [n] vote share of each question's majority, in [0, 1].
        correct: [n] whether that majority is right.
        bins: number of bins.

    Raises:
        ValueError: lengths differ, a share is outside [0, 1], or bins < 1.
    """
    if len(shares) != len(correct) or bins < 1:
        raise ValueError(f"{len(shares)} shares, {len(correct)} outcomes, bins={bins}")
    members: list[list[int]] = [[] for _ in range(bins)]
    for index, share in enumerate(shares):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"shares[{index}]={share!r}: must be in [0, 1]")
        # Upper ends belong to the bin, so that a unanimous vote is in the last one. Shares are
        # ratios of small integers: nudge down so that 3/10 * 10 = 3.0000000000000004 stays below.
        members[max(0, math.ceil(share * bins - 1e-9) - 1)].append(index)
    rows = tuple(
        _bin(number, bins, [shares[i] for i in inside], sum(correct[i] for i in inside))
        for number, inside in enumerate(members)
    )
    gaps = math.fsum(
        row.count * abs(row.accuracy - row.mean_share)
        for row in rows
        if row.accuracy is not None and row.mean_share is not None
    )
    return Calibration(bins=rows, ece=gaps / len(shares) if shares else 0.0)


def _bin(number: int, bins: int, shares: list[float], correct: int) -> CalibrationBin:
    count = len(shares)
    return CalibrationBin(
        low=number / bins,
        high=(number + 1) / bins,
        count=count,
        correct=correct,
        mean_share=math.fsum(shares) / count if count else None,
        accuracy=correct / count if count else None,
        interval=wilson(correct, count) if count else None,
    )
