"""Triton backend of `segment_attention`: a launch over tiles, then one over rows that merges."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton

from fastsi.ops._triton_variants import Variant
from fastsi.ops._view import rows_dense
from fastsi.ops.segment_attention._triton_kernels import attend_tiles, finish_rows
from fastsi.ops.segment_attention.plan import SegmentPlan
from fastsi.ops.segment_attention.work import SegmentWork, WorkShape, plan_work


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a kernel is compiled."""

    block_n: int
    """Tokens per block."""
    num_warps: int
    num_stages: int
    max_registers: int | None = None
    """Per thread, from compute capability 9.0: with 128, two programs of 256 threads share a
    multiprocessor and one multiplies while the other takes exponentials."""


def tile_config(tile: int, head_dim: int, element_bytes: int, masked: bool) -> Config:
    """For `attend_tiles`. The block of tokens is the same for every tile: sums have one order.

    ``masked``: with a window or a soft-cap, whose arithmetic needs registers of its own.
    """
    wide = head_dim > 128
    if element_bytes == 4:
        return Config(block_n=16, num_warps=8 if wide else 4, num_stages=2)
    if wide:
        return Config(block_n=32, num_warps=8, num_stages=2)
    large = tile >= 128
    limit = 128 if large and not masked else None
    return Config(block_n=64, num_warps=8 if large else 4, num_stages=2, max_registers=limit)


def row_config(head_dim: int, element_bytes: int) -> Config:
    """For `finish_rows`: small programs, many per multiprocessor, since each reads few tokens."""
    if element_bytes == 4 or head_dim > 128:
        return Config(block_n=16, num_warps=4, num_stages=2 if element_bytes == 4 else 3)
    return Config(block_n=32, num_warps=2, num_stages=3)


def segment_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: SegmentPlan,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fastsi.ops.segment_attention`."""
    work = work_of(q, k_cache, plan, window)
    if work.num_pages > k_cache.shape[0]:
        raise ValueError(
            f"plan.page_ids: holds page {work.num_pages - 1}, k_cache has {k_cache.shape[0]}"
        )
    if scale <= 0:  # the kernels take the largest product for the largest score
        q, scale = (q * -1.0, -scale) if scale < 0 else (q * 0.0, 1.0)
    q = rows_dense(q)
    rows, q_heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((rows, q_heads), dtype=torch.float32, device=q.device)
    partials = (work.num_partials, q_heads)
    partial_out = torch.empty((*partials, head_dim), dtype=torch.float32, device=q.device)
    partial_lse = torch.empty(partials, dtype=torch.float32, device=q.device)
    tensors = (partial_out, partial_lse, out, lse)
    sizes = (q.stride(0), q.stride(1), *score_factors(scale, softcap), window or 0)
    constants = constants_of(q_heads, k_cache.shape[1], head_dim, k_cache.shape[2])
    constants |= {"SOFTCAP": softcap is not None, "WINDOW": window is not None}
    heads = k_cache.shape[1]
    inputs = (q, k_cache, v_cache, plan.page_ids, plan.row_pos, work.counts)
    if work.num_tiles:
        masked = softcap is not None or window is not None
        config = tile_config(work.tile, head_dim, q.element_size(), masked)
        attend_tiles[(work.num_tiles * heads,)](
            *inputs,
            work.tiles,
            work.slots,
            *tensors,
            *sizes,
            **constants,
            BLOCK_M=work.tile,
            **launch(config, q.device),
        )
    if work.num_rows:
        config = row_config(head_dim, q.element_size())
        finish_rows[(work.num_rows * heads,)](
            *inputs,
            work.rows,
            work.spans,
            *tensors,
            *sizes,
            **constants,
            BLOCK_M=row_block(q_heads // heads),
            **launch(config, q.device),
        )
    return out, lse


def work_of(
    q: torch.Tensor, k_cache: torch.Tensor, plan: SegmentPlan, window: int | None
) -> SegmentWork:
    """The plan's work list if made for such tensors, else one planned here, once per step."""
    _, kv_heads, page_size, head_dim = k_cache.shape
    heads = (q.shape[1], kv_heads, head_dim, page_size)
    work = plan.work
    if work is not None:
        shape = work.shape
        made_for = (shape.q_heads, shape.kv_heads, shape.head_dim, shape.page_size)
        seen = shape.window is None or (window is not None and window <= shape.window)
        if made_for == heads and seen:
            return work if work.counts.device == q.device else _moved(plan, work, q.device)
    size = q.element_size()

    def build() -> SegmentWork:
        return plan_work(plan, WorkShape.for_heads(*heads, element_bytes=size)).to(q.device)

    made: SegmentWork = plan.prepared(("work", *heads, size), build)
    return made


def _moved(plan: SegmentPlan, work: SegmentWork, device: torch.device) -> SegmentWork:
    moved: SegmentWork = plan.prepared(("moved work", device), lambda: work.to(device))
    return moved


def score_factors(scale: float, softcap: float | None) -> tuple[float, float]:
    """What a product is multiplied by, and what its tanh is: scores are in base 2."""
    if softcap is None:
        return scale / math.log(2), 0.0
    return scale / softcap, softcap / math.log(2)


def constants_of(q_heads: int, kv_heads: int, head_dim: int, page_size: int) -> dict[str, int]:
    """Constants that both kernels share."""
    return {
        "KV_HEADS": kv_heads,
        "GROUP": q_heads // kv_heads,
        "PAGE": page_size,
        "HEAD_DIM": head_dim,
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
    }


def row_block(group: int) -> int:
    """Pairs of a row's program: its group, padded to what a matrix product needs."""
    return max(16, int(triton.next_power_of_2(group)))


def launch(config: Config, device: torch.device) -> dict[str, int]:
    """Keyword arguments of a launch."""
    chosen = {
        "BLOCK_N": config.block_n,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }
    if config.max_registers is not None and device.type == "cuda" and _capability(device) >= 9:
        chosen["maxnreg"] = config.max_registers
    return chosen


@functools.cache
def _capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


_POINTERS = {"page_ids": "*i32", "row_pos": "*i32", "counts": "*i32"}
_RESULTS = {"partial_out": "*fp32", "partial_lse": "*fp32"}
_SIZES = {"q_row_stride": "i32", "q_head_stride": "i32", "scale": "fp32", "softcap": "fp32"}


def _variant(
    kernel: Any,
    lists: tuple[str, str],
    heads: tuple[int, int, int],
    dtype: str,
    tile: int,
    config: Config,
    **options: bool,
) -> Variant:
    q_heads, kv_heads, head_dim = heads
    chosen = {"SOFTCAP": False, "WINDOW": False} | options
    constants = constants_of(q_heads, kv_heads, head_dim, 16) | chosen
    constants |= {"BLOCK_M": tile, "BLOCK_N": config.block_n}
    pointers = dict.fromkeys(("q", "k_cache", "v_cache"), f"*{dtype}") | _POINTERS
    pointers |= dict.fromkeys(lists, "*i32") | _RESULTS | {"out": f"*{dtype}", "lse": "*fp32"}
    signature = pointers | _SIZES | {"window": "i32"} | dict.fromkeys(constants, "constexpr")
    named = "".join(f"-{name.lower()}" for name, on in options.items() if on)
    return Variant(
        name=f"{kernel.__name__}-{q_heads}/{kv_heads}x{head_dim}-{dtype}-m{tile}{named}",
        kernel=kernel,
        signature=signature,
        constants=constants,
        divisible=(*pointers, "q_row_stride", "q_head_stride"),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        max_registers={} if config.max_registers is None else {90: config.max_registers},
    )


def _variants() -> Iterator[Variant]:
    llama, small, qwen = (32, 8, 128), (9, 3, 64), (12, 2, 128)
    for heads, dtype, tile in (
        (llama, "bf16", 128),
        (llama, "fp16", 64),
        (small, "bf16", 128),
        (qwen, "bf16", 64),
        (llama, "fp32", 16),
        ((16, 8, 256), "bf16", 64),
    ):
        size = 4 if dtype == "fp32" else 2
        config = tile_config(tile, heads[2], size, False)
        yield _variant(attend_tiles, ("tiles", "slots"), heads, dtype, tile, config)
        block = row_block(heads[0] // heads[1])
        yield _variant(
            finish_rows, ("rows", "spans"), heads, dtype, block, row_config(heads[2], size)
        )
    options = {"SOFTCAP": True, "WINDOW": True}
    config = tile_config(128, 128, 2, True)
    yield _variant(attend_tiles, ("tiles", "slots"), llama, "bf16", 128, config, **options)
    config = row_config(128, 2)
    yield _variant(finish_rows, ("rows", "spans"), llama, "bf16", 16, config, **options)


VARIANTS: Sequence[Variant] = tuple(_variants())
