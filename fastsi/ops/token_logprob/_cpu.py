"""CPU backend of `token_logprob`: torch's matrix products, chunks that stay in a cache."""

from __future__ import annotations

import torch

from fastsi.ops.token_logprob._chunked import Chunk, Running, Scale, chunked


class _Steps:
    chunk_bytes = 16 << 20
    kept_bytes = 256 << 20

    def update(
        self,
        z: torch.Tensor,
        targets: torch.Tensor,
        first: int,
        scale: Scale,
        running: Running,
        keep: bool,
    ) -> Chunk:
        products = Chunk(z)
        # The derivative of a soft-cap is of the logit, and 16 bits would round a weight twice.
        weights = z.dtype == running.top.dtype and scale.softcap is None
        if keep and not weights:
            z = z.clone()
        z = _logits(z, scale, running.top.dtype)
        at = targets - first
        inside = (at >= 0) & (at < z.shape[1])
        found = z.gather(1, torch.where(inside, at, 0)[:, None])[:, 0]
        running.chosen.copy_(torch.where(inside, found, running.chosen))
        top = torch.maximum(running.top, z.amax(dim=1))
        # -inf so far, and in this chunk: nothing to add, and no NaN.
        base = torch.where(top == -torch.inf, 0.0, top)
        running.total.mul_((running.top - base).exp_())
        running.total.add_(z.sub_(base[:, None]).exp_().sum(dim=1))
        running.top.copy_(top)
        return Chunk(z, base) if weights else products

    def gradient(
        self,
        chunk: Chunk,
        targets: torch.Tensor,
        first: int,
        scale: Scale,
        lse: torch.Tensor,
        grads: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        of_chosen, of_lse = grads
        z, base = chunk
        of_share, slope = of_lse - of_chosen, None
        if base is not None:
            d = z.mul_(((base - lse).exp_() * of_share)[:, None])
        else:
            made = _logits(z, scale, lse.dtype)
            if scale.softcap is not None:
                slope = 1 - (made * (scale.temperature / scale.softcap)).square()
            d = made.sub_(lse[:, None]).exp_().mul_(of_share[:, None])
        at = targets - first
        rows = ((at >= 0) & (at < d.shape[1])).nonzero()[:, 0]
        d[rows, at[rows]] += of_chosen[rows]
        if slope is not None:
            d.mul_(slope)
        if scale.temperature != 1:
            d.div_(scale.temperature)
        return d.to(z.dtype)


def _logits(z: torch.Tensor, scale: Scale, dtype: torch.dtype) -> torch.Tensor:
    """Logits in ``dtype``, in place where that is z's."""
    z = z.to(dtype)
    if scale.softcap is not None:
        z = z.div_(scale.softcap).tanh_().mul_(scale.softcap)
    return z if scale.temperature == 1 else z.div_(scale.temperature)


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
    return chunked(hidden, weight, targets, bias, scale, ignore_index, _Steps())
