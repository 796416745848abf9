"""The attention function that transformers calls inside the user's model.

Registered under the name ``fastsi`` in transformers' attention interface. No mask function is
registered beside it, so transformers builds no mask: visibility comes from the `SegmentPlan`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from fastsi import ops
from fastsi.engine.kv_pool import KVPool, LayerShape
from fastsi.engine.plan import SegmentArrays
from fastsi.errors import ModelError

NAME = "fastsi"
_HARMLESS = frozenset(
    {
        "cache_position",
        "dropout",
        "is_causal",
        "output_attentions",
        "output_router_logits",
        "position_ids",
        "use_cache",
    }
)
"""Keyword arguments of attention that change nothing at inference without a mask."""


@dataclass(slots=True, eq=False)
class StepContext:
    """What the layers of one forward pass share; travels as keyword argument ``fastsi_step``."""

    k: list[torch.Tensor]
    """Per layer, [pages, kv_heads, page_size, head_dim]."""
    v: list[torch.Tensor]
    slots: torch.Tensor
    """int64 [R]."""
    plan: ops.SegmentPlan
    k_scales: list[torch.Tensor] = field(default_factory=list)
    """Per layer, [pages, kv_heads, page_size], of an int8 cache; else empty."""
    v_scales: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def over(cls, pool: KVPool, slots: torch.Tensor, plan: ops.SegmentPlan) -> StepContext:
        """A step on the pool's pages."""
        return cls(pool.k, pool.v, slots, plan, pool.k_scales, pool.v_scales)

    def scales(self, layer: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Those of a layer's keys and values; None where the cache has none."""
        return (self.k_scales[layer], self.v_scales[layer]) if self.k_scales else (None, None)


def host_plan(segments: SegmentArrays) -> ops.SegmentPlan:
    """The plan over a step's arrays themselves."""
    fields: dict[str, Any] = {name: torch.from_numpy(array) for name, array in segments.items()}
    return ops.SegmentPlan(**fields, host=segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCall:
    """What a layer asks of attention, the same at every step."""

    shape: LayerShape
    q_heads: int
    scale: float | None
    softcap: float | None
    window: int | None


@dataclass(slots=True, eq=False)
class ProbeContext:
    """Records what the layers ask for, to refuse what cannot run and to size the KV pool."""

    layers: dict[int, LayerCall] = field(default_factory=dict)


def segment_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    fastsi_step: StepContext | ProbeContext | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Write the new keys and values to the pool, then attend as the plan says.

    Args:
        module: the attention layer; its ``layer_idx`` names the cache.
        query: [1, q_heads, R, head_dim].
        key: [1, kv_heads, R, head_dim].
        value: as key.
        attention_mask: must be None.
        scaling: factor on the scores.
        softcap: see `ops.segment_attention`.
        sliding_window: window in tokens, the row's own included.
        fastsi_step: the step's shared state.
        other: arguments of other implementations.

    Returns:
        [1, R, q_heads, head_dim], and None for the attention weights.

    Raises:
        ModelError: called outside the engine.
    """
    if fastsi_step is None:
        raise ModelError(
            "the attention implementation 'fastsi' runs only inside the engine; set "
            "model.config._attn_implementation to 'sdpa' or 'eager'"
        )
    layer: int = module.layer_idx  # type: ignore[assignment]
    if isinstance(fastsi_step, ProbeContext):
        shape = LayerShape(kv_heads=key.shape[1], head_dim=key.shape[3])
        call = LayerCall(
            shape=shape,
            q_heads=query.shape[1],
            scale=scaling,
            softcap=softcap,
            window=sliding_window,
        )
        _probe(fastsi_step, layer, query, key, value, attention_mask, other)
        fastsi_step.layers[layer] = call
        # Any output of the right shape does: only what the layers ask for is of interest.
        return query.transpose(1, 2).contiguous(), None
    k, v = fastsi_step.k[layer], fastsi_step.v[layer]
    k_scale, v_scale = fastsi_step.scales(layer)
    given = query.dtype
    if given == torch.bfloat16 and k.dtype != given:  # caches that serve rows in float32 alone
        query, key, value = query.float(), key.float(), value.float()
    ops.kv_write(
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        k,
        v,
        fastsi_step.slots,
        k_scale=k_scale,
        v_scale=v_scale,
    )
    out, _ = ops.segment_attention(
        query[0].transpose(0, 1),
        k,
        v,
        fastsi_step.plan,
        scale=scaling,
        softcap=softcap,
        window=sliding_window,
        k_scale=k_scale,
        v_scale=v_scale,
    )
    return out.unsqueeze(0).to(given), None


def _probe(
    probe: ProbeContext,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    other: dict[str, Any],
) -> None:
    if layer in probe.layers:
        raise ModelError(f"layer {layer} attends twice in one pass, which the engine cannot run")
    if key.shape != value.shape or query.shape[-1] != key.shape[-1]:
        raise ModelError(
            f"layer {layer}: heads of different size (query {query.shape[-1]}, key "
            f"{key.shape[-1]}, value {value.shape[-1]}), as in multi-head latent attention, "
            f"cannot run"
        )
    if attention_mask is not None or other.get("is_causal") is False:
        raise ModelError(f"layer {layer}: attention with a mask of its own cannot run")
    for name, argument in other.items():
        if name not in _HARMLESS and argument is not None:
            what = "attention sinks (s_aux)" if name == "s_aux" else f"attention argument {name!r}"
            raise ModelError(f"layer {layer}: {what} cannot run")


AttentionInterface.register(NAME, segment_attention_forward)


@contextmanager
def engine_attention(model: PreTrainedModel) -> Iterator[None]:
    """Route the model's attention through the engine and switch dropout off, for the block."""
    before = _implementations(model.config)
    training = [module for module in model.modules() if module.training]
    model.config._attn_implementation = NAME
    model.eval()
    try:
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name
        for module in training:
            module.training = True


def _implementations(config: PreTrainedConfig) -> list[tuple[PreTrainedConfig, str | None]]:
    found = [(config, config._attn_implementation_internal)]
    for name in config.sub_configs:
        child = getattr(config, name, None)
        if child is not None:
            found += _implementations(child)
    return found
