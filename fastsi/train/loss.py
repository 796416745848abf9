"""Completion-only loss: the summed negative log-probability of target tokens.

Sums, not means: the trainer divides by the number of target tokens of the whole optimizer step, so
how a step is cut into forward passes does not change its gradient.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from fastsi.ops import token_logprob
from fastsi.train.batches import MicroBatch


def can_share_prefix(model: nn.Module) -> bool:
    """Whether keys and values of a prefix stand for it in every layer.

    They do with full attention; a sliding window drops some of them, and a recurrent state is none.
    """
    try:
        layers = DynamicCache(config=model.config).layers
    except (AttributeError, TypeError, ValueError):
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def target_nll(model: nn.Module, batch: MicroBatch) -> torch.Tensor:
    """Sum of -log p(token | tokens before it) over the target tokens of a batch.

    Where the model's logits are those of a plain linear head (see `head_of`), `ops.token_logprob`
    takes the states before it: only target tokens get logits, and never all at once.

    Args:
        model: a causal language model that takes ``input_ids`` and ``attention_mask``.
        batch: on the model's device.

    Returns:
        Scalar in nats, with gradient: float32, or float64 for a float64 model.
    """
    rows, width = batch.ids.shape
    shared = len(batch.prefix)
    inputs: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask}
    if shared:
        before = batch.mask.new_ones(rows, shared)
        inputs["attention_mask"] = torch.cat([before, batch.mask], dim=1)
        inputs["position_ids"] = torch.arange(
            shared, shared + width, device=batch.ids.device
        ).expand(rows, width)
        inputs["past_key_values"] = _prefix_cache(model, batch.prefix, rows)
    else:
        inputs["use_cache"] = False
    # The token at t is predicted at t - 1. Prompts come first, so logits are needed only from the
    # position before the earliest target on; with exemplars this is a small part.
    first = int(batch.is_target.any(dim=0).nonzero()[0]) - 1
    assert first >= 0, "a prompt keeps at least one token"
    keep = width - first
    if _takes_logits_to_keep(model):
        inputs["logits_to_keep"] = keep
    wanted = batch.is_target[:, first + 1 :]
    targets = batch.ids[:, first + 1 :][wanted]
    head = head_of(model)
    if head is not None:
        states, weight, bias = _states(model, inputs, head)
        chosen = states[:, -keep:-1][wanted]
        return -token_logprob(chosen, weight, targets, bias=bias, softcap=head.softcap)[0].sum()
    predicted = model(**inputs).logits[:, -keep:-1][wanted]
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    return functional.cross_entropy(predicted, targets, reduction="sum")


@dataclass(frozen=True, slots=True)
class Head:
    """The linear layer that makes a model's logits, and what is done to them."""

    layer: nn.Linear
    softcap: float | None


_HEADS: weakref.WeakKeyDictionary[nn.Module, Head | None] = weakref.WeakKeyDictionary()


def head_of(model: nn.Module) -> Head | None:
    """The model's head if its logits are that layer's products, soft-capped or not; else None.

    Settled by one forward pass over two tokens, at the first call; random states stay as they are.
    """
    found: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if type(found) is not nn.Linear or "forward" in vars(found):
        return None
    if found._forward_hooks or found._forward_pre_hooks:
        return None
    known = _HEADS.get(model)
    if known is None or known.layer is not found:
        known = _HEADS[model] = _probe(model, found)
    return known


@torch.no_grad()
def _probe(model: nn.Module, layer: nn.Linear) -> Head | None:
    """Compare what the head gives with what the model says."""
    device = layer.weight.device
    seen: list[tuple[int, torch.Tensor]] = []

    def note(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        seen.append((len(args), output))

    handle = layer.register_forward_hook(note)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            ids = torch.tensor([[0, 1]], device=device)
            said = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0][0] != 1 or seen[0][1].shape != said.shape:
        return None
    products, logits = seen[0][1].double(), said.double()
    if torch.equal(products, logits):
        return Head(layer, None)
    softcap = getattr(getattr(model, "config", None), "final_logit_softcapping", None)
    if softcap is None:
        return None
    capped = softcap * torch.tanh(products / softcap)
    eps = torch.finfo(said.dtype).eps
    same = torch.allclose(capped, logits, rtol=4 * eps, atol=4 * eps * float(softcap))
    return Head(layer, float(softcap)) if same else None


def _states(
    model: nn.Module, inputs: dict[str, Any], head: Head
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Run the model up to its head: the states [rows, positions, hidden], weight and bias."""
    layer, seen = head.layer, []

    def take(_: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        (states,) = args
        kind = states.device.type
        # Under autocast the head would multiply in another type; so does the op then.
        other = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        seen.append((states, other))
        return (states[:, :0],)  # no logits are made

    handle = layer.register_forward_pre_hook(take)
    try:
        model(**inputs)
    finally:
        handle.remove()
    ((states, other),) = seen
    dtype = states.dtype if other is None else other
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return states.to(dtype), layer.weight.to(dtype), bias


def _prefix_cache(model: nn.Module, prefix: torch.Tensor, rows: int) -> DynamicCache:
    """Keys and values of the prefix, computed once and seen by every row, with gradient."""
    cache = DynamicCache(config=model.config)
    inputs: dict[str, Any] = {"input_ids": prefix[None], "past_key_values": cache}
    if _takes_logits_to_keep(model):
        inputs["logits_to_keep"] = 1
    model(**inputs, use_cache=True)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return cache


def _takes_logits_to_keep(model: nn.Module) -> bool:
    # An adapter's ``forward`` takes anything; under mixed precision accelerate wraps that of the
    # object, while the class still has the original.
    unwrap = getattr(model, "get_base_model", None)
    plain = unwrap() if callable(unwrap) else model
    return "logits_to_keep" in inspect.signature(type(plain).forward).parameters
