"""Runs the user's transformers model on a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel

from fastsi.engine import architecture
from fastsi.engine.attention import StepContext, engine_attention
from fastsi.engine.kv_pool import KVPool, LayerShape
from fastsi.engine.plan import Step


class ModelRunner:
    """Holds the live module; its parameters are the caller's own, never copied."""

    def __init__(self, model: PreTrainedModel) -> None:
        # A PEFT model wraps the base model, into whose modules its adapters are already inserted.
        unwrap = getattr(model, "get_base_model", None)
        self.model: PreTrainedModel = unwrap() if callable(unwrap) else model
        self.layers: Sequence[LayerShape] = architecture.inspect(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of keys and values."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where rows, plan and cache live."""
        device: torch.device = self.model.device
        return device

    def session(self) -> AbstractContextManager[None]:
        """Context in which `forward` may be called; outside, the model is as its owner left it."""
        return engine_attention(self.model)

    def forward(self, step: Step, pool: KVPool) -> torch.Tensor:
        """Logits [L, vocab] of ``step.logit_rows``; keys and values of all rows are written."""
        context = StepContext(k=pool.k, v=pool.v, slots=step.slots, plan=step.plan)
        # no_grad and not inference_mode: modules may cache tensors that training uses later.
        with torch.no_grad():
            output = self.model(
                input_ids=step.input_ids[None],
                position_ids=step.positions[None],
                use_cache=False,
                logits_to_keep=step.logit_rows,
                fastsi_step=context,
            )
        logits: torch.Tensor = output.logits[0]
        return logits
