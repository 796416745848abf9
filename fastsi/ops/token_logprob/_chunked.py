"""`token_logprob` in chunks of the vocabulary, forward and backward.

A chunk of logits [N, C] is one matrix product; what follows it, the running log-sum-exp or the
gradient with respect to the chunk, is the backend's. Chunks are kept for the backward pass up to
``kept_bytes`` in all, and it turns them into gradients in place; the others it makes again, at two
more operations for every six of theirs. So memory has a bound, and no [N, vocab] tensor is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from fastsi.ops._checks import accumulate_dtype


class Scale(NamedTuple):
    """What turns a product into a logit."""

    temperature: float
    softcap: float | None


class Running(NamedTuple):
    """Per row, over the chunks so far; each [N] in arithmetic type, updated in place."""

    top: torch.Tensor
    """Largest logit."""
    total: torch.Tensor
    """Sum of exp(z - top)."""
    chosen: torch.Tensor
    """The target's logit."""


class Chunk(NamedTuple):
    """Some columns of the products, or what has become of them."""

    z: torch.Tensor
    """[N, C]: products; with a ``base`` exp(logit - base)."""
    base: torch.Tensor | None = None
    """[N]."""


class Steps(Protocol):
    """What a backend does with a chunk of products that starts at token ``first``."""

    chunk_bytes: int
    """How large a chunk may be; it should stay in a cache."""
    kept_bytes: int
    """How many bytes of chunks the backward pass may find."""

    def update(
        self,
        z: torch.Tensor,
        targets: torch.Tensor,
        first: int,
        scale: Scale,
        running: Running,
        keep: bool,
    ) -> Chunk:
        """Take products into ``running``; unless told to ``keep``, the result has no meaning."""

    def gradient(
        self,
        chunk: Chunk,
        targets: torch.Tensor,
        first: int,
        scale: Scale,
        lse: torch.Tensor,
        grads: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Gradient with respect to the products, in their dtype; may overwrite the chunk.

        With p = exp(z - lse): (onehot(target) - p) * grads[0] + p * grads[1], through the scale.
        """


class _TokenLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: Scale,
        steps: Steps,
        room: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = accumulate_dtype(hidden.dtype)
        rows = hidden.shape[0]
        running = Running(
            hidden.new_full((rows,), -torch.inf, dtype=dtype),
            hidden.new_zeros(rows, dtype=dtype),
            hidden.new_full((rows,), torch.nan, dtype=dtype),
        )
        kept = []
        for first, last in _chunks(hidden, weight, steps):
            z = _product(hidden, weight, bias, first, last)
            room -= z.nbytes
            chunk = steps.update(z, targets, first, scale, running, room >= 0)
            if room >= 0:
                kept.append(chunk)
            del z, chunk  # the next one takes its place, in the allocator and in the cache
        lse = running.top + running.total.log()
        ctx.save_for_backward(hidden, weight, bias, targets, lse)
        ctx.kept = kept[::-1]
        ctx.scale, ctx.steps = scale, steps
        return running.chosen - lse, lse.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, lse = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dtype = accumulate_dtype(hidden.dtype)
        # Sums over chunks are kept in arithmetic type; rows of the weight belong to one chunk.
        grad_hidden = torch.zeros_like(hidden, dtype=dtype) if needs[0] else None
        grad_weight = torch.empty_like(weight) if needs[1] else None
        grad_bias = torch.empty_like(bias) if needs[2] else None
        given = (grads[0].contiguous(), grads[1].contiguous())
        for first, last in _chunks(hidden, weight, ctx.steps):
            # A second backward pass through the same graph finds none.
            chunk = ctx.kept.pop() if ctx.kept else None
            if chunk is None:
                chunk = Chunk(_product(hidden, weight, bias, first, last))
            d = ctx.steps.gradient(chunk, targets, first, ctx.scale, lse, given)
            if grad_hidden is not None and grad_hidden.dtype == d.dtype:
                torch.addmm(grad_hidden, d, weight[first:last], out=grad_hidden)
            elif grad_hidden is not None:
                grad_hidden += d @ weight[first:last]
            if grad_weight is not None:
                torch.mm(d.t(), hidden, out=grad_weight[first:last])
            if grad_bias is not None:
                grad_bias[first:last] = d.sum(dim=0, dtype=dtype)
            del chunk, d
        made = None if grad_hidden is None else grad_hidden.to(hidden.dtype)
        return made, grad_weight, grad_bias, None, None, None, None


def _chunks(hidden: torch.Tensor, weight: torch.Tensor, steps: Steps) -> list[tuple[int, int]]:
    """Half-open spans of the vocabulary; a multiple of 256 tokens but for the last."""
    vocab, per_token = weight.shape[0], max(hidden.shape[0], 1) * hidden.element_size()
    size = max(steps.chunk_bytes // per_token // 256, 1) * 256
    return [(first, min(first + size, vocab)) for first in range(0, vocab, size)]


def _product(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, first: int, last: int
) -> torch.Tensor:
    rows = weight[first:last]
    return torch.nn.functional.linear(hidden, rows, None if bias is None else bias[first:last])


def chunked(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    scale: Scale,
    ignore_index: int,
    steps: Steps,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`token_logprob` with the given steps."""
    run: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _TokenLogprob.apply
    inputs = [hidden, weight, *(() if bias is None else (bias,))]
    backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    room = steps.kept_bytes if backward else 0
    logprob, lse = run(hidden, weight, bias, targets, scale, steps, room)
    return torch.where(targets == ignore_index, 0.0, logprob), lse
