"""Attention of many decoding paths in groups behind one shared prefix, or of a prefill chunk.

Providers: torch's own attention over gathered keys and values (what a model without a shared cache
does; gathering is not timed), the C++ backend with every path reading the prefix for itself, with
shared spans, and with shared spans in a bfloat16 and an int8 cache. "shared spans alone" and "path
spans alone" split the time of the third in two, "int8 ..." that of the last. `--chunk N` times a
prefill chunk of N tokens instead.

`--device cuda` times the Triton backend instead (`_attention_gpu.py`): sharing, every row for
itself and torch, as shares of the floor; where sharing wins; and the fastest splits and tiles.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _attention_gpu import Case, crossover, measure, tune
from _harness import start, versions
from _ops import DTYPES, Tensors, check, fill_sizes, finish, parser

from fastsi.ops import SegmentPlan, kv_write, segment_attention
from fastsi.ops.kv_quant import dequantise, rotate

SIZES = {
    "groups": (8, 2, "questions"),
    "paths": (32, 4, "decoding paths of a question"),
    "prefix_tokens": (1024, 40, "tokens all paths share"),
    "own_tokens": (60, 9, "tokens a question's paths share"),
    "suffix_tokens": (64, 7, "longest suffix; lengths go 1, 8, 15, ... round"),
    "query_heads": (9, 4, "query heads"),
    "kv_heads": (3, 2, "key/value heads"),
    "head_dim": (64, 16, "size of a head"),
    "page_size": (16, 16, "tokens per cache page"),
}


INT8_ALLOWED = 0.1
"""Largest difference over an int8 cache, as a share of the largest value: shared spans round
queries and weights to 7 bits; what is wrong differs by the value itself."""


@dataclass
class Spans:
    """Segments under construction over pages that are given out in order."""

    page_size: int
    pages: list[list[int]] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)
    causal: list[bool] = field(default_factory=list)
    per_path: list[bool] = field(default_factory=list)
    num_pages: int = 0

    def new_pages(self, length: int) -> list[int]:
        first, count = self.num_pages, -(-length // self.page_size)
        self.num_pages += count
        return list(range(first, first + count))

    def add(
        self,
        pages: list[int],
        length: int,
        start: int,
        rows: tuple[int, int],
        *,
        causal: bool = False,
        per_path: bool = False,
    ) -> None:
        self.pages.append(pages)
        self.length.append(length)
        self.start.append(start)
        self.rows.append(rows)
        self.causal.append(causal)
        self.per_path.append(per_path)

    def plan(self, row_pos: list[int]) -> SegmentPlan:
        return SegmentPlan.from_lists(
            pages=self.pages,
            page_offset=[0] * len(self.pages),
            kv_len=self.length,
            kv_start=self.start,
            rows=self.rows,
            causal=self.causal,
            row_pos=row_pos,
            per_path=self.per_path,
        )


def decode_plan(
    sizes: dict[str, int], *, sharing: bool = True, shared: bool = True, suffixes: bool = True
) -> SegmentPlan:
    """The plan of one decode step; ``shared`` and ``suffixes`` leave out the other spans."""
    paths, prefix, own = sizes["paths"], sizes["prefix_tokens"], sizes["own_tokens"]
    rows = sizes["groups"] * paths
    spans = Spans(sizes["page_size"])

    def add(length: int, start: int, first: int, last: int) -> None:
        pages = spans.new_pages(length)
        copies = [(first, last)] if sharing else [(row, row + 1) for row in range(first, last)]
        for copy in copies if shared else ():
            spans.add(pages, length, start, copy)

    add(prefix, 0, 0, rows)
    for group in range(sizes["groups"]):
        add(own, prefix, group * paths, (group + 1) * paths)
    lengths = [1 + row * 7 % sizes["suffix_tokens"] for row in range(rows)]
    for row, length in enumerate(lengths):
        pages = spans.new_pages(length)
        if suffixes:
            spans.add(pages, length, prefix + own, (row, row + 1), per_path=True)
    return spans.plan([prefix + own + length - 1 for length in lengths])


def chunk_plan(sizes: dict[str, int], chunk: int) -> SegmentPlan:
    """The last ``chunk`` tokens of the prefix are prefilled behind the others."""
    before = sizes["prefix_tokens"]
    spans = Spans(sizes["page_size"])
    spans.add(spans.new_pages(before + chunk), before + chunk, 0, (0, chunk), causal=True)
    return spans.plan(list(range(before, before + chunk)))


def gathered(plan: SegmentPlan, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys or values of every row laid end to end, padded: [rows, kv_heads, tokens, head_dim], and
    which of them the row sees."""
    flat = cache.transpose(1, 2).flatten(0, 1)
    size = cache.shape[2]
    parts: list[list[torch.Tensor]] = [[] for _ in range(plan.num_rows)]
    for s in range(plan.num_segments):
        pages = plan.page_ids[int(plan.page_indptr[s]) : int(plan.page_indptr[s + 1])].long()
        slots = (pages[:, None] * size + torch.arange(size)).flatten()[: int(plan.kv_len[s])]
        for row in range(int(plan.row_begin[s]), int(plan.row_end[s])):
            parts[row].append(slots)
    rows = [torch.cat(part) for part in parts]
    longest = max(len(row) for row in rows)
    padded = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in rows])
    length = torch.tensor([len(row) for row in rows])
    if bool(plan.causal.any()):
        length = plan.row_pos.long() + 1
    seen = torch.arange(longest) < length[:, None]
    return flat[padded].transpose(1, 2).contiguous(), seen


def in_int8(k: torch.Tensor, v: torch.Tensor) -> tuple[Tensors, dict[str, torch.Tensor]]:
    """The caches as `kv_write` would have left them, and their scales."""
    caches = tuple(torch.zeros(k.shape, dtype=torch.int8) for _ in range(2))
    scales = {name: torch.zeros(k.shape[:3]) for name in ("k_scale", "v_scale")}
    rows = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (k, v))
    kv_write(*rows, *caches, torch.arange(k.shape[0] * k.shape[2]), **scales)
    return caches, scales


def on_device(args: argparse.Namespace) -> None:
    """Check, time and print the Triton backend; without a GPU only toy sizes, interpreted."""
    device = torch.device(args.device)
    toy = Case(groups=1, paths=2, prefix=40, suffix=5, q_heads=2, kv_heads=1, head_dim=16)
    found = {
        "cases": measure(device, quick=args.quick),
        "crossover": crossover(device, quick=args.quick),
        "tuned": tune(device, toy if args.quick else Case(suffix=512), quick=args.quick)[:5],
    }
    for case in found["cases"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in case["share"].items())
        print(f"prefix {case['prefix']}, suffixes to {case['suffix']}: of the floor {shares}")
    for case in found["crossover"]:
        sizes = f"prefix {case['prefix']} x {case['paths']} paths x {case['kv_heads']} KV heads"
        print(f"{sizes}: sharing {case['gain']:.2f}x")
    for one in found["tuned"]:
        print(one)
    line = json.dumps(_contract(found["cases"]) | found)
    if args.json_out is not None:
        with args.json_out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    print(line)


def _contract(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys every benchmark has, from the case without suffixes nearest to 4,096 tokens."""
    case = min(cases, key=lambda one: (one["suffix"], abs(one["prefix"] - 4096)))
    seconds = case["seconds"]
    base = seconds["every row for itself"]
    tokens = case["groups"] * case["paths"]
    return {
        "workload": {name: case[name] for name in case if name not in ("seconds", "share")},
        "baseline": "every row for itself",
        "providers": {
            name: {"seconds": value, "tokens_per_s": tokens / value}
            for name, value in seconds.items()
        },
        "ratios": {name: base / value for name, value in seconds.items()},
        "floor": {"seconds": case["floor_seconds"], "share": case["share"]},
        "versions": versions(),
    }


def main() -> None:
    """Check, time, print."""
    made = parser(__doc__, ("cpu", "cuda", "interpreter"), **SIZES)
    made.add_argument("--chunk", type=int, default=0, help="prefill so many tokens (0: decode)")
    args = made.parse_args()
    start(args)
    if args.device != "cpu":
        if args.device == "interpreter":
            os.environ["TRITON_INTERPRET"] = "1"  # before the backend is imported
            args.device, args.quick = "cpu", True
        on_device(args)
        return
    sizes = fill_sizes(args)
    if args.chunk < 0:
        raise SystemExit(f"--chunk={args.chunk}: must be 0 or more")
    dtype = DTYPES[args.dtype]
    plan = chunk_plan(sizes, args.chunk) if args.chunk else decode_plan(sizes)
    pages = int(plan.page_ids.max()) + 1
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    q = normal(plan.num_rows, sizes["query_heads"], sizes["head_dim"])
    cache = (pages, sizes["kv_heads"], sizes["page_size"], sizes["head_dim"])
    k_cache, v_cache = normal(*cache), normal(*cache)
    half = [tensor.bfloat16() for tensor in (k_cache, v_cache)]
    pairs = int(((plan.row_end - plan.row_begin) * plan.kv_len).sum())
    if args.chunk:
        pairs -= args.chunk * (args.chunk - 1) // 2

    def ours(plan: SegmentPlan, k: torch.Tensor, v: torch.Tensor) -> Tensors:
        return segment_attention(q, k, v, plan, backend="cpu")[:1]

    def truth(k: torch.Tensor, v: torch.Tensor) -> Tensors:
        return segment_attention(q.double(), k.double(), v.double(), plan, backend="reference")[:1]

    providers = {}
    if not args.chunk:
        (keys, seen), (values, _) = gathered(plan, k_cache), gathered(plan, v_cache)
        providers["torch-sdpa"] = lambda: (
            torch.nn.functional.scaled_dot_product_attention(
                q[:, :, None], keys, values, attn_mask=seen[:, None, None], enable_gqa=True
            )[:, :, 0],
        )
        apart = decode_plan(sizes, sharing=False)
        providers["cpu-no-sharing"] = lambda: ours(apart, k_cache, v_cache)
    providers["cpu"] = lambda: ours(plan, k_cache, v_cache)
    differences = check(providers, truth(k_cache, v_cache), dtype)
    if dtype == torch.float32:
        more = {"cpu-bfloat16-cache": lambda: ours(plan, *half)}
        differences |= check(more, truth(*half), dtype)
        providers |= more
        small, scales = in_int8(k_cache, v_cache)

        def over_int8(plan: SegmentPlan) -> Tensors:
            return segment_attention(q, *small, plan, **scales, backend="cpu")[:1]

        meant = [
            dequantise(*one, torch.float64) for one in zip(small, scales.values(), strict=True)
        ]
        exact = segment_attention(rotate(q.double()), *meant, plan, backend="reference")[:1]
        more = {"cpu-int8-cache": lambda: over_int8(plan)}
        differences |= check(more, exact, dtype, INT8_ALLOWED)
        providers |= more
    if not args.chunk:
        parts = {
            "shared spans alone": decode_plan(sizes, suffixes=False),
            "path spans alone": decode_plan(sizes, shared=False),
        }
        for name, part in parts.items():
            providers[name] = lambda part=part: ours(part, k_cache, v_cache)
            if dtype == torch.float32:
                providers[f"int8 {name}"] = lambda part=part: over_int8(part)
    read = int(plan.kv_len.sum())
    item = q.element_size()
    finish(
        args,
        "segment_attention",
        sizes | {"chunk": args.chunk},
        providers,
        rows=plan.num_rows,
        flops=4.0 * pairs * sizes["query_heads"] * sizes["head_dim"],
        moved=2.0 * read * sizes["kv_heads"] * sizes["head_dim"] * item + 2.0 * q.numel() * item,
        note="two products; each key and value read once, each query read and output written",
        differences=differences,
    )


if __name__ == "__main__":
    main()
