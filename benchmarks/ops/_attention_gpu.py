"""`segment_attention` on a GPU: decode steps of many paths, and where grouping wins.

`measure`, `crossover` and `tune` return one dictionary per case, for `bench_segment_attention.py
--device cuda` and for other scripts. Times are of calls recorded in a CUDA graph, over several
copies of the cache, so that launches cost what they cost in the engine and data comes from memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _harness import Rates, machine_rates

from fastsi.ops import SegmentPlan, segment_attention
from fastsi.ops.segment_attention.work import WorkShape, plan_work

PAGE = 16
SHARED = {"min_shared_tokens": 0}
APART = {"min_shared_tokens": 1 << 30, "own_split_tokens": 1 << 20}
"""Work shapes: shared spans in tiles, or read by every row for itself (paged attention)."""

Call = Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One decode step: groups of paths, each group behind a prefix of its own."""

    groups: int = 8
    paths: int = 32
    prefix: int = 4096
    suffix: int = 0
    """Longest suffix in tokens, lengths spread evenly from 1; 0: none."""
    q_heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128

    def suffixes(self) -> np.ndarray:
        """Tokens of each path's own span."""
        rows = self.groups * self.paths
        spread = np.linspace(1, max(self.suffix, 1), rows).astype(np.int64)
        return np.random.default_rng(0).permutation(spread) if self.suffix else spread[:0]

    def plan(self, device: torch.device | str) -> SegmentPlan:
        """Prefixes first, then suffixes."""
        rows, own = self.groups * self.paths, self.suffixes()
        length = np.concatenate([np.full(self.groups, self.prefix), own])
        pages = -(-length // PAGE)
        begin = np.concatenate([np.arange(self.groups) * self.paths, np.arange(len(own))])
        width = np.concatenate([np.full(self.groups, self.paths), np.ones(len(own))])
        arrays = {
            "page_indptr": np.concatenate([[0], np.cumsum(pages)]),
            "page_ids": np.random.default_rng(1).permutation(int(pages.sum())),
            "page_offset": np.zeros(len(length)),
            "kv_len": length,
            "kv_start": np.concatenate([np.zeros(self.groups), np.full(len(own), self.prefix)]),
            "row_begin": begin,
            "row_end": begin + width,
            "causal": np.zeros(len(length)),
            "per_path": np.arange(len(length)) >= self.groups,
            "row_pos": np.full(rows, self.prefix) + (own - 1 if len(own) else -1),
        }
        host = {name: array.astype(np.int32) for name, array in arrays.items()}
        return SegmentPlan.from_numpy(host, device)

    def floor(self, rates: Rates, item: int) -> float:
        """Seconds: the larger of bytes at the copy rate and products at the matrix rate."""
        rows, own = self.groups * self.paths, int(self.suffixes().sum())
        read = 2 * (self.groups * self.prefix + own) * self.kv_heads * self.head_dim * item
        moved = read + 2 * rows * self.q_heads * self.head_dim * item
        flops = 4.0 * (rows * self.prefix + own) * self.q_heads * self.head_dim
        return max(moved / rates.bytes_per_s, flops / rates.flops_per_s)

    def shape(self, **changes: Any) -> WorkShape:
        """The default work shape of such a model, changed."""
        heads = (self.q_heads, self.kv_heads, self.head_dim, PAGE)
        return WorkShape.for_heads(*heads, **changes)


class Inputs:
    """Random queries and caches of a case, enough copies to be larger than a GPU's cache."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype) -> None:
        self.case, self.plan = case, case.plan(device)
        assert self.plan.host is not None
        pages = int(self.plan.host["page_ids"].max()) + 1
        cache = (pages, case.kv_heads, PAGE, case.head_dim)
        size = 2 * np.prod(cache) * dtype.itemsize
        copies = 1 if device.type == "cpu" else max(1, min(16, (128 << 20) // int(size)))

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device).to(dtype)

        self.q = normal(self.plan.num_rows, case.q_heads, case.head_dim)
        self.caches = [(normal(*cache), normal(*cache)) for _ in range(copies)]

    def calls(self, shape: WorkShape) -> list[Call]:
        """One call per copy, with a work list planned beforehand."""
        work = plan_work(self.plan, shape).to(self.q.device)
        plan = dataclasses.replace(self.plan, work=work)
        return [
            lambda k=k, v=v: segment_attention(self.q, k, v, plan, backend="triton")
            for k, v in self.caches
        ]

    def sdpa(self) -> Call | None:
        """torch's attention over keys and values gathered per row; None where they do not fit."""
        case, (k_cache, v_cache) = self.case, self.caches[0]
        rows, tokens = self.plan.num_rows, case.prefix
        size = 2 * rows * tokens * case.kv_heads * case.head_dim * self.q.element_size()
        if case.suffix or size > 8 << 30:
            return None
        pages = self.plan.page_ids.long().view(case.groups, -1)

        def gather(cache: torch.Tensor) -> torch.Tensor:
            laid = cache[pages].transpose(1, 2).flatten(2, 3)[:, :, :tokens]
            return laid.repeat_interleave(case.paths, dim=0)

        k, v = gather(k_cache), gather(v_cache)
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: (attend(self.q[:, :, None], k, v, enable_gqa=True)[:, :, 0], self.q)


def device_seconds(calls: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Median seconds per call; on a GPU of a replayed graph of all calls."""

    def once() -> None:
        for call in calls:
            call()

    once()
    if device.type != "cuda":
        begin = time.perf_counter()
        once()
        return (time.perf_counter() - begin) / len(calls)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    samples = []
    for _ in range(23):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop) * 1e-3 / len(calls))
    return statistics.median(samples[3:])


def _difference(one: Call, other: Call) -> float:
    """Largest difference of two outputs, as a share of the largest value."""
    a, b = one()[0].double(), other()[0].double()
    return float((a - b).abs().max() / b.abs().max())


def _checked(inputs: Inputs, dtype: torch.dtype) -> dict[str, list[Call]]:
    """Sharing and no sharing, which must agree with each other and with torch where it fits."""
    sharing = inputs.calls(inputs.case.shape(element_bytes=dtype.itemsize))
    apart = inputs.calls(inputs.case.shape(element_bytes=dtype.itemsize, **APART))
    found = {"sharing": sharing, "every row for itself": apart}
    torch_call = inputs.sdpa()
    if torch_call is not None:
        found["torch sdpa"] = [torch_call]
    limit = 1e-4 if dtype == torch.float32 else 2e-2
    for name, calls in found.items():
        worst = _difference(calls[0], sharing[0])
        if not worst <= limit:
            raise SystemExit(f"{inputs.case}: {name} differs by {worst:.3g}; not timed")
    return found


def measure(device: torch.device, *, quick: bool = False) -> list[dict[str, Any]]:
    """8 groups of 32 rows behind 1,024 to 16,384 tokens, alone and with ragged suffixes.

    Returns:
        Per case: its sizes, ``floor_seconds``, and ``seconds`` and ``share`` of the floor by
        provider.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    rates = machine_rates(dtype, device, quick=quick)
    cases = [Case(prefix=p, suffix=s) for p in (1024, 4096, 16384) for s in (0, 512)]
    if quick:
        toy = Case(groups=2, paths=3, prefix=200, q_heads=2, kv_heads=1, head_dim=16)
        cases = [toy, dataclasses.replace(toy, suffix=20)]
    found = []
    for case in cases:
        inputs = Inputs(case, device, dtype)
        floor = case.floor(rates, dtype.itemsize)
        seconds = {
            name: device_seconds(calls, device) for name, calls in _checked(inputs, dtype).items()
        }
        share = {name: floor / value for name, value in seconds.items()}
        sizes = dataclasses.asdict(case)
        found.append(sizes | {"floor_seconds": floor, "seconds": seconds, "share": share})
    return found


def crossover(device: torch.device, *, quick: bool = False) -> list[dict[str, Any]]:
    """Where grouping wins: prefix by paths per group by KV heads, suffixes of 64 tokens.

    Returns:
        Per case: its sizes and ``gain``, the time of every row for itself over that of sharing.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    sizes: Iterator[tuple[int, int, int]] = itertools.product(
        (16, 32, 64, 128, 256, 512, 1024), (2, 8, 32), (1, 2, 8)
    )
    if quick:
        sizes = iter([(16, 2, 1), (64, 3, 1)])
    found = []
    for prefix, paths, kv_heads in sizes:
        heads = {"q_heads": 4 * kv_heads, "kv_heads": kv_heads, "head_dim": 16 if quick else 128}
        groups = 1 if quick else 8
        case = Case(groups=groups, paths=paths, prefix=prefix, suffix=8 if quick else 64, **heads)
        inputs = Inputs(case, device, dtype)
        times = []
        for changes in (SHARED, APART):
            shape = case.shape(element_bytes=dtype.itemsize, **changes)
            times.append(device_seconds(inputs.calls(shape), device))
        found.append(dataclasses.asdict(case) | {"seconds": times, "gain": times[1] / times[0]})
    return found


def tune(device: torch.device, case: Case, *, quick: bool = False) -> list[dict[str, Any]]:
    """Times of one case over sizes of splits and tiles, fastest first."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    inputs = Inputs(case, device, dtype)
    tiles = [(16,)] if dtype == torch.float32 else [(64,), (128,), (64, 128)]
    options = itertools.product(
        tiles, (256, 512, 1024, 2048), (0, 32 * case.kv_heads), (256, 512, 1024)
    )
    found = []
    for tile, split, growth, own in list(options)[: 2 if quick else None]:
        changes = {"tiles": tile, "split_tokens": split, "split_growth": growth}
        changes["own_split_tokens"] = own
        shape = case.shape(element_bytes=dtype.itemsize, **changes)
        found.append(changes | {"seconds": device_seconds(inputs.calls(shape), device)})
    return sorted(found, key=lambda one: one["seconds"])
