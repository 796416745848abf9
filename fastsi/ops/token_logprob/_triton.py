# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Triton backend of `token_logprob`: cuBLAS makes chunks of logits, kernels reduce them.

A chunk fits the L2 cache, so writing it and reading it back costs little beside the product, and
the library's product is faster than one written here with its reductions fused would be.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastsi.ops._launch import on_device
from fastsi.ops._triton_variants import Variant
from fastsi.ops.token_logprob._chunked import Chunk, Running, Scale, chunked

BLOCK = 2048  # tokens per step of `_update` and per program of `_gradient`


@triton.jit
def _logits(z, inverse_temperature, softcap, CAPPED: tl.constexpr):
    if CAPPED:
        # tanh(x) = 1 - 2 / (exp(2x) + 1); from exp(-2|x|) it neither overflows nor cancels.
        x = z / softcap
        small = tl.exp(-2.0 * tl.abs(x))
        # (1 - s) / (1 + s) cancels near 0, where the series x - x^3 / 3 is exact enough.
        size = tl.where(
            tl.abs(x) < 0.02, tl.abs(x) * (1.0 - x * x / 3.0), (1.0 - small) / (1.0 + small)
        )
        z = softcap * tl.where(x < 0, -size, size)
    return z * inverse_temperature


@triton.jit
def _update(
    z,
    targets,
    top,
    total,
    chosen,
    stride,
    first,
    width,
    inverse_temperature,
    softcap,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Takes one row's logits of a chunk into its running maximum and sum."""
    row = tl.program_id(0).to(tl.int64)
    line = z + row * stride
    m, s = tl.load(top + row), tl.load(total + row)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(line + at, mask=at < width, other=0.0).to(m.dtype)
        x = _logits(x, inverse_temperature, softcap, CAPPED)
        x = tl.where(at < width, x, -float("inf"))
        new = tl.maximum(m, tl.max(x, axis=0))
        base = tl.where(new == -float("inf"), 0.0, new)
        s = s * tl.exp(m - base) + tl.sum(tl.exp(x - base), axis=0)
        m = new
    tl.store(top + row, m)
    tl.store(total + row, s)
    at = tl.load(targets + row) - first
    if (at >= 0) & (at < width):
        x = tl.load(line + at).to(m.dtype)
        tl.store(chosen + row, _logits(x, inverse_temperature, softcap, CAPPED))


@triton.jit
def _gradient(
    z,
    targets,
    lse,
    of_chosen,
    of_lse,
    stride,
    first,
    width,
    inverse_temperature,
    softcap,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Replaces a block of one row's products by the gradient with respect to them."""
    row = tl.program_id(0).to(tl.int64)
    line = z + row * stride
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(lse + row)
    x = tl.load(line + at, mask=at < width, other=0.0).to(total.dtype)
    x = _logits(x, inverse_temperature, softcap, CAPPED)
    one, all_ = tl.load(of_chosen + row), tl.load(of_lse + row)
    d = tl.exp(x - total) * (all_ - one)
    d += tl.where(at == tl.load(targets + row) - first, one, 0.0)
    if CAPPED:
        t = x / (inverse_temperature * softcap)
        d *= 1.0 - t * t
    tl.store(line + at, (d * inverse_temperature).to(z.dtype.element_ty), mask=at < width)


def _run(
    kernel: triton.JITFunction,
    grid: tuple[int, ...],
    z: torch.Tensor,
    targets: torch.Tensor,
    per_row: tuple[torch.Tensor, ...],
    first: int,
    scale: Scale,
) -> None:
    """Launch a kernel on a chunk of products; both take the same arguments."""
    with on_device(z):
        kernel[grid](
            z,
            targets,
            *per_row,
            z.stride(0),
            first,
            z.shape[1],
            1.0 / scale.temperature,
            scale.softcap or 1.0,
            CAPPED=scale.softcap is not None,
            BLOCK=BLOCK,
            num_warps=8,
        )


class _Steps:
    chunk_bytes = 32 << 20  # of 40 MB of L2 on A100, 50 MB on H100
    kept_bytes = 512 << 20

    def update(
        self,
        z: torch.Tensor,
        targets: torch.Tensor,
        first: int,
        scale: Scale,
        running: Running,
        keep: bool,
    ) -> Chunk:
        _run(_update, (len(z),), z, targets, running, first, scale)
        return Chunk(z)

    def gradient(
        self,
        chunk: Chunk,
        targets: torch.Tensor,
        first: int,
        scale: Scale,
        lse: torch.Tensor,
        grads: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        z = chunk.z
        grid = len(z), triton.cdiv(z.shape[1], BLOCK)
        _run(_gradient, grid, z, targets, (lse, *grads), first, scale)
        return z


def token_logprob(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    temperature: float,
    softcap: float | None,
    ignore_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fastsi.ops.token_logprob`."""
    scale = Scale(temperature, softcap)
    return chunked(hidden, weight, targets.contiguous(), bias, scale, ignore_index, _Steps())


def _variant(kernel: triton.JITFunction, source: str, pointers: tuple[str, ...]) -> Variant:
    named = {"z": f"*{source}", "targets": "*i64", **dict.fromkeys(pointers, "*fp32")}
    integers = dict.fromkeys(("stride", "first", "width"), "i32")
    numbers = dict.fromkeys(("inverse_temperature", "softcap"), "fp32")
    constants = {"CAPPED": True, "BLOCK": BLOCK}
    return Variant(
        name=f"{pointers[-1]}-{source}",
        kernel=kernel,
        signature={**named, **integers, **numbers, **dict.fromkeys(constants, "constexpr")},
        constants=constants,
        divisible=(*named, *integers),
        num_warps=8,
    )


VARIANTS = tuple(
    _variant(kernel, source, pointers)
    for source in ("bf16", "fp32")
    for kernel, pointers in (
        (_update, ("top", "total", "chosen")),
        (_gradient, ("lse", "of_chosen", "of_lse")),
    )
)
