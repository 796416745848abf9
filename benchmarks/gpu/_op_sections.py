"""Sections of `run_all.py` that time single ops at the shapes of a decode step."""

from __future__ import annotations

from functools import partial

import _attention_gpu
import torch
from _measure import Call, Context, device_seconds, show_time

from fastsi import ops
from fastsi.ops.segment_attention.work import WorkShape


def rates(context: Context) -> None:
    """Copy and matrix rate, of which everything else is a share."""
    for dtype in (context.dtype, torch.float32):
        found = context.rates_of(dtype)
        context.add(
            f"machine, {found.dtype}",
            f"copy {found.bytes_per_s / 1e9:.4g} GB/s, products {found.flops_per_s / 1e12:.4g} "
            f"TFLOP/s",
            copy_bytes_per_s=found.bytes_per_s,
            flops_per_s=found.flops_per_s,
        )


def segment_attention(context: Context) -> None:
    """Shared prefixes of several lengths, alone and with suffixes, beside paged attention.

    Every row for itself is the same kernel without sharing, which is paged attention. Results are
    compared with each other, and with torch's where that fits, before they are timed.
    """
    for case in _attention_gpu.measure(context.device, quick=context.dry):
        seconds, prefix, suffix = case["seconds"], case["prefix"], case["suffix"]
        rows = case["groups"] * case["paths"]
        name = f"segment_attention, {rows} rows, prefix {prefix}"
        name += f", ragged suffixes 1 to {suffix}" if suffix else ""
        floor, goal = case["floor_seconds"], 0.8 if suffix else 0.85
        context.share(name, seconds["sharing"], floor, goal, seconds_by_provider=seconds)
        if not suffix:
            wanted = 5.0 if prefix == 4096 or context.dry else None
            gain = seconds["every row for itself"] / seconds["sharing"]
            context.ratio(f"the same beside paged attention, prefix {prefix}", gain, wanted)


def crossover(context: Context) -> None:
    """Where grouping wins: gain over every row for itself, by prefix length.

    The last row says from which length on it wins for every number of paths and heads measured,
    beside the default of `WorkShape.min_shared_tokens`.
    """
    gains: dict[tuple[int, int], dict[int, float]] = {}
    for case in _attention_gpu.crossover(context.device, quick=context.dry):
        key = (case["paths"], case["kv_heads"])
        gains.setdefault(key, {})[case["prefix"]] = case["gain"]
    for (paths, kv_heads), found in sorted(gains.items()):
        shown = ", ".join(f"{prefix}: {gain:.2f}x" for prefix, gain in sorted(found.items()))
        context.add(f"grouping, {paths} paths, {kv_heads} KV heads, by prefix", shown, gains=found)
    lengths = sorted({prefix for found in gains.values() for prefix in found})
    loses = [p for p in lengths if any(found.get(p, 1.0) < 1 for found in gains.values())]
    default = WorkShape(q_heads=1, kv_heads=1, head_dim=128, page_size=16).min_shared_tokens
    wins = [p for p in lengths if p > max(loses, default=-1)]
    context.add(
        "grouping wins everywhere from a prefix of",
        f"{wins[0] if wins else f'more than {lengths[-1]}'} tokens; min_shared_tokens is {default}",
        loses_at=loses,
        min_shared_tokens=default,
    )


def fused_ops(context: Context) -> None:
    """Norm, rotation with cache write, and activation at the sizes of Llama-3.1-8B."""
    dry, device, dtype = context.dry, context.device, context.dtype
    rows, hidden, inner = (5, 48, 64) if dry else (256, 4096, 14336)
    heads, dim = ((3, 1, 1), 16) if dry else ((32, 8, 8), 128)
    copies = 2 if dry else 24

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    x, weight = [normal(rows, hidden) for _ in range(copies)], normal(hidden)
    residuals = [normal(rows, hidden) for _ in range(copies)]
    out = torch.empty_like(x[0])
    calls: list[Call] = [
        lambda a=a, r=r: ops.rms_norm(a, weight, 1e-5, residual=r, out=out)
        for a, r in zip(x, residuals, strict=True)
    ]
    item = dtype.itemsize
    context.share(
        f"rms_norm with residual, {rows} x {hidden}",
        device_seconds(calls, device),
        context.floor(0.0, 4.0 * rows * hidden * item),
        None,
    )
    cos, sin = normal(rows, dim), normal(rows, dim)
    pages = -(-rows // 16)
    caches = [normal(2, pages, heads[1], 16, dim) for _ in range(copies)]
    fused = [normal(rows, sum(heads), dim) for _ in range(copies)]
    slots = torch.arange(rows, device=device)
    calls = [
        lambda f=f, c=c: ops.rope_kv_write(*f.split(heads, dim=1), cos, sin, c[0], c[1], slots)
        for f, c in zip(fused, caches, strict=True)
    ]
    moved = 2.0 * rows * (sum(heads) + 1) * dim * item
    context.share(
        f"rope_kv_write, {rows} rows, {heads[0]}/{heads[1]} heads of {dim}",
        device_seconds(calls, device),
        context.floor(0.0, moved),
        None,
    )
    both = [normal(rows, 2 * inner) for _ in range(copies)]
    target = normal(rows, inner)
    calls = [lambda b=b: ops.act_mul(*b.chunk(2, dim=1), "silu", out=target) for b in both]
    context.share(
        f"act_mul, {rows} x {inner}",
        device_seconds(calls, device),
        context.floor(0.0, 3.0 * rows * inner * item),
        None,
    )


def linears(context: Context) -> None:
    """cuBLAS, joined and apart, beside the Triton kernel of fixed sums, at two model sizes."""
    dry, device, dtype = context.dry, context.device, context.dtype
    shapes = {
        "qkv 8B": ((4096, 1024, 1024), 4096, False),
        "out 8B": ((4096,), 4096, False),
        "gate_up 8B": ((14336, 14336), 4096, True),
        "down 8B": ((4096,), 14336, False),
        "gate_up 1.5B": ((8960, 8960), 1536, True),
        "down 1.5B": ((1536,), 8960, False),
    }
    if dry:
        shapes = {"qkv": ((12, 4, 4), 16, False), "gate_up": ((20, 20), 16, True)}
    for rows in (4,) if dry else (32, 256):
        for name, (sizes, depth, pair) in shapes.items():
            weights = [torch.randn(n, depth, device=device).to(dtype) for n in sizes]
            x = torch.randn(rows, depth, device=device).to(dtype)
            _linear(context, f"linear {name}, {rows} rows", x, weights, pair)


def _linear(
    context: Context, name: str, x: torch.Tensor, weights: list[torch.Tensor], pair: bool
) -> None:
    """A row for one product; weights of 8B layers are beyond the cache of a GPU."""
    activation = "silu" if pair else None
    packed, joined = ops.pack_weight(weights, pair=pair, keep=True), torch.cat(weights)

    def seconds(call: Call) -> float:
        return device_seconds([call], context.device, budget=0.1)

    bare = seconds(lambda: x @ joined.t())
    backends = ("reference",) if context.dry else ("cuda", "triton")
    times = {
        backend: seconds(partial(ops.linear, x, packed, activation=activation, backend=backend))
        for backend in backends
    }
    floor = context.floor(2.0 * len(x) * joined.numel(), float(joined.nbytes))
    shown = ", ".join(f"{backend} {show_time(taken)}" for backend, taken in times.items())
    context.add(
        name,
        f"torch's product {show_time(bare)}, {shown}, floor {show_time(floor)}",
        torch_seconds=bare,
        floor_seconds=floor,
        **{f"{backend}_seconds": taken for backend, taken in times.items()},
    )


def match_stop(context: Context) -> None:
    """One token of every row against the rules of answers, in microseconds of the device."""
    rows, device = (6 if context.dry else 256), context.device
    parts = [b" the", b" answer", b" is", b" 12", b".", b"\n", b" so", b" \\boxed{3}"]
    table = ops.TokenBytes.from_parts(parts, [0] * len(parts)).to(device)
    rules = ops.StopRules.make([(["\nQ:"], True, True)])
    state = ops.StopState.make(rows, rules.width, device)
    for slot in range(rows):
        state.begin(slot, 0, b"First there are three apples. " * 8)
    tokens = torch.randint(0, len(parts), (rows,)).to(device)
    slots, rules = torch.arange(rows, device=device), rules.to(device)
    call = partial(ops.match_stop, tokens, slots, table, rules, state)
    taken = device_seconds([call], device)
    context.add(f"match_stop, {rows} rows", show_time(taken), seconds=taken)


def advance_rows(context: Context) -> None:
    """What ends a step of 256 rows: one launch, beside torch's own, replayed one after another."""
    rows, segments = (6, 8) if context.dry else (256, 512)
    device = context.device
    live = torch.ones(rows + 1, dtype=torch.int64, device=device)
    live[-1] = 0
    records = torch.zeros(segments, 5, dtype=torch.int32, device=device)
    token = torch.arange(rows, device=device)
    buffers = ops.RowBuffers(
        ids=torch.zeros_like(token),
        moving=torch.zeros(3, rows, dtype=torch.int64, device=device),
        row_pos=torch.zeros(rows, dtype=torch.int32, device=device),
        kv_len=torch.zeros(segments, dtype=torch.int32, device=device),
        span_ends=records[:, 1],
        live=live,
        grows_with=torch.arange(2 * segments, device=device) % (rows + 1),
    )
    last = torch.zeros_like(token)
    times = {
        backend: device_seconds(
            [partial(ops.advance_rows, token, token, last, buffers, backend=backend)], device
        )
        for backend in ("reference", "cpu" if device.type == "cpu" else "triton")
    }
    shown = ", ".join(f"{backend} {show_time(taken)}" for backend, taken in times.items())
    context.add(f"advance_rows, {rows} rows", shown, seconds_by_backend=times)
