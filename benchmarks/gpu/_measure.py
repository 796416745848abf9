"""What the sections of `run_all.py` share: rows of the table, a budget of time, device times."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from _harness import Rates, machine_rates, synchronize

Call = Callable[[], object]


class OutOfTime(Exception):
    """A section has used up its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    measure: str
    value: str
    """As shown: a time, a ratio, or why there is none."""
    goal: str = ""
    met: bool | None = None
    """None: nothing to meet, or not measured."""
    data: dict[str, Any] = field(default_factory=dict)
    """Numbers for the JSON line; seconds, bytes, operations."""

    @property
    def verdict(self) -> str:
        """What stands in the last column."""
        return "" if self.met is None else "met" if self.met else "NOT MET"


@dataclass(slots=True)
class Context:
    """What every section gets."""

    device: torch.device
    dry: bool
    """Toy sizes on a CPU: the numbers mean nothing."""
    dtype: torch.dtype
    deadline: float
    """`time.monotonic` at which the whole run should have ended."""
    rates: dict[torch.dtype, Rates] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        measure: str,
        value: str,
        goal: str = "",
        met: bool | None = None,
        **data: Any,
    ) -> None:
        """Add a row; in a dry run no goal is judged."""
        judged = None if self.dry else met
        self.rows.append(Row(measure=measure, value=value, goal=goal, met=judged, data=data))

    def share(
        self, measure: str, seconds: float, floor: float, goal: float | None, **data: Any
    ) -> float:
        """Add a row for a time beside its floor; ``goal`` is the least share of the floor."""
        found = floor / seconds
        self.add(
            measure,
            f"{show_time(seconds)}, {found:.0%} of the floor",
            "" if goal is None else f">= {goal:.0%} of the floor",
            None if goal is None else found >= goal,
            seconds=seconds,
            floor_seconds=floor,
            share=found,
            **data,
        )
        return found

    def ratio(
        self, measure: str, ratio: float, goal: float | None, *, most: bool = False, **data: Any
    ) -> None:
        """Add a row for a ratio that must be at least, or at ``most``, the goal."""
        sign = "<=" if most else ">="
        met = None if goal is None else (ratio <= goal if most else ratio >= goal)
        self.add(measure, f"{ratio:.2f}x", f"{sign} {goal}x" if goal else "", met, ratio=ratio,
                 **data)  # fmt: skip

    def rates_of(self, dtype: torch.dtype) -> Rates:
        """Copy and matrix rate, measured once."""
        if dtype not in self.rates:
            self.rates[dtype] = machine_rates(dtype, self.device, quick=self.dry)
        return self.rates[dtype]

    def floor(self, flops: float, moved: float, dtype: torch.dtype | None = None) -> float:
        """Seconds below which no implementation can go, by operations and bytes."""
        rates = self.rates_of(dtype or self.dtype)
        return max(flops / rates.flops_per_s, moved / rates.bytes_per_s)


def show_time(seconds: float) -> str:
    """With three digits and a unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block once it has run so long (checked between Python calls)."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def device_seconds(calls: Sequence[Call], device: torch.device, *, budget: float = 0.3) -> float:
    """Median seconds per call of ``calls``, one after the other, without the host's share.

    On a GPU all calls are recorded in one CUDA graph, as the engine's steps are, and the graph is
    replayed; where they cannot be recorded, they are launched one by one. Several calls on data of
    their own keep the data out of the device's cache, as the layers of a model do.
    """

    def once() -> None:
        for call in calls:
            call()

    if device.type == "cpu":
        budget = 0.0  # a dry run: three samples
    once()
    run = _recorded(once) if device.type == "cuda" else once
    synchronize()
    samples: list[float] = []
    end = time.perf_counter() + budget
    while len(samples) < 3 or (time.perf_counter() < end and len(samples) < 200):
        if device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in "ab")
            start.record()
            run()
            stop.record()
            stop.synchronize()
            samples.append(start.elapsed_time(stop) * 1e-3)
        else:
            begin = time.perf_counter()
            run()
            samples.append(time.perf_counter() - begin)
    return statistics.median(samples) / len(calls)


def _recorded(run: Call) -> Call:
    """A replay of ``run``, or ``run`` itself where the device cannot record it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        print(f"note: not recorded as a graph: {str(error).splitlines()[0]}")
        torch.cuda.synchronize()
        return run
    return graph.replay
