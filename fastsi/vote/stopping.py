"""Rules that stop sampling a question before all of its n paths are drawn.

A rule looks at the answers of paths 0..k-1, in path order, and at nothing else: not at which path
ended first, nor at the rows beside it. So a question stops at the same path in every batch, and
the same rule replayed on stored answers gives the same vote. An abstention (None) is a path
without a vote: it uses up one of the n, and supports nobody.

=============  =====================================================================================
``exact``      the leader cannot be overtaken: its lead is greater than the number of paths left.
               The winner is that of all n paths, for certain. A lead that only equals the paths
               left could end in a tie, which log-probabilities would settle, so it does not stop.
``beta:C``     Adaptive-Consistency (arXiv 2305.11860): with votes a and b of the first two answers
               and a uniform prior, the leader is the likelier of the two with probability
               1 - I_{1/2}(a + 1, b + 1) = P(Bin(a + b + 1, 1/2) <= a); stops where that exceeds C.
               In integers for C = 0.95: 4 to 0, 6 to 1, 8 to 2, 9 to 3, 11 to 4, ...
``window:W``   Early-Stopping Self-Consistency (arXiv 2401.10480): the last W paths all gave the
               same answer; an abstention breaks the row.
=============  =====================================================================================

Reaching n paths is no stop: the reason is then ``full``. The vote counts the paths up to the
decision; those begun after it are cancelled and leave no trace.

With ``exact`` paths that ended out of order could also be counted, since no order changes the
winner. They are not: the counts, n and the paths kept for training would then depend on the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from fastsi.errors import ConfigError
from fastsi.types import check_known
from fastsi.vote.extract import answer_key

Reason = Literal["exact", "beta", "window", "full"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a question stops, and why."""

    at: int
    """Paths that count: 0..at-1."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class Exact:
    """Stop when the leader cannot be overtaken."""

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True, slots=True)
class Beta:
    """Stop when the leader beats the runner-up with this posterior probability."""

    confidence: float = 0.95
    """In [0.5, 1)."""

    def __post_init__(self) -> None:
        value = self.confidence
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not (good and 0.5 <= value < 1):
            raise ConfigError(f"confidence={value!r}: must be a number in [0.5, 1)")

    def __str__(self) -> str:
        return f"beta:{self.confidence!r}"


@dataclass(frozen=True, slots=True)
class Window:
    """Stop when this many paths in a row gave the same answer."""

    size: int = 5
    """Paths, at least 1."""

    def __post_init__(self) -> None:
        value = self.size
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"size={value!r}: must be an integer >= 1")

    def __str__(self) -> str:
        return f"window:{self.size}"


Rule = Exact | Beta | Window
RULES = ("none", "exact", "beta", "window")
"""Names that `parse_rule` knows; ``beta`` and ``window`` take a number after a colon."""


def parse_rule(given: str | Rule | None, *, weights: str = "uniform") -> Rule | None:
    """A rule from its text: ``exact``, ``beta:0.95``, ``window:5``; None and ``none`` never stop.

    Args:
        given: a rule, its text, or None.
        weights: how the votes will weigh. Rules count paths, so ``exact`` would promise what it
            cannot keep if they do not weigh the same.

    Raises:
        ConfigError: unknown rule, a number that the rule cannot take, or ``exact`` with weights.
    """
    rule = _parse(given)
    if isinstance(rule, Exact) and weights != "uniform":
        raise ConfigError(
            f"stopping='exact' with weights={weights!r}: weights could change the winner after "
            "the stop; use weights='uniform' or another rule"
        )
    return rule


def _parse(given: str | Rule | None) -> Rule | None:
    if given is None or isinstance(given, Exact | Beta | Window):
        return given
    if not isinstance(given, str):
        raise ConfigError(f"stopping={given!r}: must be a rule, its name, or None")
    name, colon, number = given.strip().partition(":")
    check_known([name], RULES, "stopping rule")
    if name in ("none", "exact"):
        if colon:
            raise ConfigError(f"stopping={given!r}: {name} takes no number")
        return Exact() if name == "exact" else None
    if not colon:
        return Beta() if name == "beta" else Window()
    try:
        return Beta(float(number)) if name == "beta" else Window(int(number))
    except (ValueError, ConfigError):
        takes = "a confidence in [0.5, 1)" if name == "beta" else "a number of paths >= 1"
        example = Beta() if name == "beta" else Window()
        raise ConfigError(f"stopping={given!r}: {name} takes {takes}, such as {example}") from None


@functools.lru_cache(maxsize=64)
def beta_table(confidence: float, n: int) -> tuple[int, ...]:
    """Votes that stop the rule ``beta``: entry b is the least a for which a to b stops.

    Exact integers: S(a, b), the sum of C(a + b + 1, k) over k <= a, must exceed
    ``confidence`` * 2 ** (a + b + 1), and is carried along by Pascal's rule. ``confidence`` is read
    as the decimal that it prints as.

    Returns:
        Non-decreasing, for b = 0, 1, ... as far as a + b <= n; empty where n is too small.
    """
    wanted = Fraction(repr(confidence))
    table: list[int] = []
    a, b, below = 0, 0, 1  # S(0, 0) = C(1, 0)
    while a + b <= n:
        size = a + b + 1
        if below * wanted.denominator > wanted.numerator << size:
            table.append(a)
            below = 2 * below - math.comb(size, a)  # S(a, b + 1)
            b += 1
        else:
            below = 2 * below + math.comb(size, a + 1)  # S(a + 1, b)
            a += 1
    return tuple(table)


@dataclass(slots=True)
class Tally:
    """Answers of paths 0..k-1 of at most ``n``, and what the rules need of them."""

    n: int
    seen: int = 0
    """k, abstentions included."""
    counts: dict[str, int] = field(default_factory=dict)
    run: int = 0
    """Paths at the end that all gave ``last``."""
    last: str | None = None

    def add(self, key: str | None) -> None:
        """Count the next path in order."""
        self.seen += 1
        if key is None:
            self.run, self.last = 0, None
            return
        self.counts[key] = self.counts.get(key, 0) + 1
        self.run = self.run + 1 if key == self.last else 1
        self.last = key

    def top_two(self) -> tuple[int, int]:
        """Votes of the first and of the second answer; 0 where there is none."""
        first = second = 0
        for count in self.counts.values():
            if count > first:
                first, second = count, first
            elif count > second:
                second = count
        return first, second

    def missing(self, rule: Rule | None) -> int:
        """The fewest further paths with which ``rule`` can stop, or n be reached; 0: it stops now.

        The fewest are those that all agree with the leader (``window``: with the last path), so
        this is also the number of paths that are worth starting together.
        """
        left = self.n - self.seen
        first, second = self.top_two()
        if rule is None or not left:
            return left
        if isinstance(rule, Exact):
            return min(left, max(0, (left - (first - second)) // 2 + 1))
        if isinstance(rule, Window):
            return min(left, max(0, rule.size - self.run))
        table = beta_table(rule.confidence, self.n)
        return min(left, max(0, table[second] - first) if second < len(table) else left)

    def decision(self, rule: Rule | None) -> Stop | None:
        """Whether sampling ends here."""
        if self.seen == self.n:
            return Stop(self.n, "full")
        if rule is None or self.missing(rule):
            return None
        return Stop(self.seen, _REASONS[type(rule)])


_REASONS: dict[type[Rule], Reason] = {Exact: "exact", Beta: "beta", Window: "window"}


def decide(
    rule: str | Rule | None, keys: Sequence[str | None], n: int | None = None
) -> Stop | None:
    """Replay a rule on answers in path order.

    Args:
        rule: a rule or its text.
        keys: canonical keys of paths 0, 1, ...; None abstains.
        n: paths that would be sampled at most; None: as many as ``keys``.

    Returns:
        The first stop, or None if the rule wants more paths than ``keys`` has.

    Raises:
        ConfigError: a bad rule, or ``n`` smaller than 1.
    """
    parsed = parse_rule(rule)
    n = len(keys) if n is None else n
    if n < 1:
        raise ConfigError(f"n={n}: must be at least 1 path")
    tally = Tally(n)
    for key in keys[:n]:
        tally.add(key)
        stop = tally.decision(parsed)
        if stop is not None:
            return stop
    return None


def replay(rule: Rule | None, keys: Sequence[str | None], n: int | None = None) -> Stop:
    """`decide` on paths that are all there are: without a decision all of them count."""
    return decide(rule, keys, n) or Stop(len(keys), "full")


def controllers(
    rule: Rule | None,
    n: int,
    count: int,
    extractor: str = "auto",
    wave: int | Literal["auto"] = "auto",
) -> list[VoteController] | None:
    """A controller for each of ``count`` questions; None where no rule stops anything."""
    if rule is None:
        return None
    return [VoteController(rule, n, extractor=extractor, wave=wave) for _ in range(count)]


class VoteController:
    """Applies a rule to one question while its paths end, in any order.

    What `fastsi.engine` asks of a controller: `wanted` and `finished`.
    """

    def __init__(
        self,
        rule: Rule | None,
        n: int,
        *,
        extractor: str = "auto",
        wave: int | Literal["auto"] = "auto",
    ) -> None:
        """Begin a question.

        Args:
            rule: when to stop.
            n: paths at most.
            extractor: how the answer is found in a text; one of ``fastsi.vote.EXTRACTORS``.
            wave: paths to have under way beyond those counted; "auto": the fewest with which the
                rule can stop.

        Raises:
            ConfigError: ``wave`` is neither "auto" nor an integer >= 1.
        """
        if wave != "auto" and (not isinstance(wave, int) or isinstance(wave, bool) or wave < 1):
            raise ConfigError(f"wave={wave!r}: must be 'auto' or an integer >= 1")
        self._rule, self._extractor, self._wave = rule, extractor, wave
        self._tally = Tally(n)
        self._early: dict[int, str | None] = {}
        """Keys of paths that ended before one of lower index."""
        self.keys: list[str | None] = []
        """Keys of the paths that count so far, in path order."""
        self.stop: Stop | None = None

    @property
    def wanted(self) -> int:
        """Paths 0..wanted-1 are worth running now; later ones may never count."""
        if self.stop is not None:
            return self.stop.at
        ahead = self._tally.missing(self._rule) if self._wave == "auto" else self._wave
        return min(self._tally.n, self._tally.seen + max(1, ahead))

    def finished(self, index: int, text: str) -> int | None:
        """Take the text of path ``index``; returns how many paths count once that is decided."""
        if self.stop is None:
            self._early[index] = answer_key(text, extractor=self._extractor)
        while self.stop is None and self._tally.seen in self._early:
            key = self._early.pop(self._tally.seen)
            self.keys.append(key)
            self._tally.add(key)
            self.stop = self._tally.decision(self._rule)
        return None if self.stop is None else self.stop.at
