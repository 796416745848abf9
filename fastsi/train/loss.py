"""Completion-only loss: the summed negative log-probability of target tokens.

Sums, not means: the trainer divides by the number of target tokens of the whole optimizer step, so
how a step is cut into forward passes does not change its gradient.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

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
    logits = model(**inputs).logits[:, -keep:]
    wanted = batch.is_target[:, first + 1 :]
    predicted = logits[:, :-1][wanted]
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    return functional.cross_entropy(predicted, batch.ids[:, first + 1 :][wanted], reduction="sum")


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
