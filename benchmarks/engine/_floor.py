"""Floating-point operations and bytes that sampling paths cannot do without.

Counted: every matrix product of the decoder (2 operations per weight and token; of a mixture of
experts only the chosen ones), the output head once per sampled token, the two products of
attention, the weights read once per step, and keys and values read once per step and written once.
Prompts are prefilled once; a span of keys and values shared by several paths is read once per step.

Not counted, so that the floor is a true lower bound: embeddings, norms, rotary positions,
activations, softmax, sampling, the reading and writing of intermediate results, caches that hold
weights, and every overhead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from _harness import Floor, Rates
from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the cost of a decoder depends on."""

    layer_weights: float
    """Weights a token meets in all layers together."""
    stored_weights: float
    """Weights of all layers, all experts included."""
    head_weights: float
    """Weights of the output head."""
    heads: int
    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    """Sliding window of each layer in tokens; None sees everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathsWorkload:
    """Questions behind one shared prefix, each continued by several paths of fixed length."""

    prefix_tokens: int
    question_tokens: int
    questions: int
    paths: int
    new_tokens: int

    def kept_tokens(self) -> int:
        """Distinct tokens of prompts and paths: what a cache of keys and values comes to hold."""
        own = self.question_tokens + self.paths * self.new_tokens
        return self.prefix_tokens + self.questions * own


def decoder_shape(config: PreTrainedConfig) -> Shape:
    """Count the weights of a model without allocating them.

    Args:
        config: config of a causal language model, any architecture transformers can build.
    """
    text = config.get_text_config()
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings().weight
    tables = {id(head), id(model.get_input_embeddings().weight)}
    met = stored = 0.0
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or id(weight) in tables or name.endswith("wpe.weight"):
            continue
        chosen = text.num_experts_per_tok / experts if experts and ".experts." in name else 1.0
        met += weight.numel() * chosen
        stored += weight.numel()
    heads = text.num_attention_heads
    layers = text.num_hidden_layers
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * layers
    return Shape(
        layer_weights=met,
        stored_weights=stored,
        head_weights=float(head.numel()),
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
    )


def _visible(windows: tuple[int | None, ...], position: int) -> int:
    """Tokens seen from ``position`` (itself included), summed over layers."""
    return sum(position + 1 if w is None else min(position + 1, w) for w in windows)


def decode_floor(
    config: PreTrainedConfig, work: PathsWorkload, rates: Rates, *, dtype: torch.dtype
) -> Floor:
    """Shortest time of a workload: prefill, then ``new_tokens - 1`` steps with all paths at once.

    The first token of every path comes from the prompt's last logits. Each part takes the larger
    of its operations at the matrix rate and its bytes at the copy rate.

    Args:
        config: of the model.
        work: sizes.
        rates: of this machine, from `_harness.machine_rates` in the dtype of the model.
        dtype: of weights, keys and values. The engine stores float32 weights in 2 or 3 bytes on
            AMX where the others are 0: where memory binds, its share of this floor is too high.
    """
    shape = decoder_shape(config)
    pair_flops = 4.0 * shape.heads * shape.head_dim
    kv_bytes = 2.0 * shape.kv_heads * shape.head_dim * dtype.itemsize
    weight_bytes = (shape.stored_weights + shape.head_weights) * dtype.itemsize
    rows = work.questions * work.paths
    prompt = work.prefix_tokens + work.question_tokens

    fresh = work.prefix_tokens + work.questions * work.question_tokens
    pairs = sum(_visible(shape.windows, t) for t in range(work.prefix_tokens))
    own = sum(_visible(shape.windows, t) for t in range(work.prefix_tokens, prompt))
    flops = 2 * shape.layer_weights * fresh + 2 * shape.head_weights * work.questions
    flops += pair_flops * (pairs + work.questions * own)
    moved = weight_bytes + kv_bytes * len(shape.windows) * fresh
    seconds = _slower(flops, moved, rates)

    for step in range(1, work.new_tokens):
        position = prompt + step - 1
        seen = _visible(shape.windows, position)
        step_flops = 2.0 * (shape.layer_weights + shape.head_weights) * rows
        step_flops += pair_flops * seen * rows
        step_bytes = weight_bytes + kv_bytes * _distinct_tokens(shape, work, position)
        seconds += _slower(step_flops, step_bytes, rates)
        flops, moved = flops + step_flops, moved + step_bytes
    note = "matrix products and attention; weights and shared keys and values read once per step"
    return Floor(seconds=seconds, flops=flops, bytes=moved, rates=rates, note=note)


def _slower(flops: float, moved: float, rates: Rates) -> float:
    return max(flops / rates.flops_per_s, moved / rates.bytes_per_s)


def _distinct_tokens(shape: Shape, work: PathsWorkload, position: int) -> float:
    """Keys a step must read, shared ones once, plus those it writes; summed over layers."""
    total = 0.0
    rows = work.questions * work.paths
    for window in shape.windows:
        first = 0 if window is None else max(0, position + 1 - window)
        prefix = max(0, work.prefix_tokens - first)
        question = work.question_tokens - max(0, first - work.prefix_tokens)
        own_begin = work.prefix_tokens + work.question_tokens
        own = position + 1 - max(own_begin, first)
        total += prefix + work.questions * max(0, question) + rows * (own + 1)
    return total


def describe(config: PreTrainedConfig) -> dict[str, Any]:
    """The model's size for the workload part of the JSON line."""
    shape = decoder_shape(config)
    return {
        "architecture": config.model_type,
        "layers": len(shape.windows),
        "weights": int(shape.stored_weights + shape.head_weights),
        "heads": f"{shape.heads}/{shape.kv_heads}x{shape.head_dim}",
        "vocabulary": config.get_text_config().vocab_size,
    }
