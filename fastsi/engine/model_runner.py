"""Runs the user's transformers model on a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from fastsi import ops
from fastsi.engine import architecture, fused_decoder
from fastsi.engine.attention import LayerCall, StepContext, engine_attention
from fastsi.engine.fused_decoder import FusedDecoder, NotFused
from fastsi.engine.kv_pool import KVPool, LayerShape
from fastsi.engine.module_swaps import ModuleSwaps
from fastsi.engine.packed_layers import Stamp
from fastsi.engine.plan import Step

_PROBE_TOKENS = 24
_AGREEMENT = 1e-4
"""Largest difference of logits, as a share of the largest, that rounding explains in float32."""


class ModelRunner:
    """Holds the live module; its parameters are the caller's own.

    How a pass is made is settled for each structure of the model: by `FusedDecoder` where the
    model is built like Llama, else by its own forward with swapped modules (`ModuleSwaps`). Packed
    weights are caches, made when a session starts and made anew when parameters have changed.
    """

    def __init__(self, model: PreTrainedModel, *, mode: str = "fp32") -> None:
        # A PEFT model wraps the base model, into whose modules its adapters are already inserted.
        unwrap = getattr(model, "get_base_model", None)
        self.model: PreTrainedModel = unwrap() if callable(unwrap) else model
        self._mode = mode
        self._calls: Sequence[LayerCall] = architecture.inspect(self.model)
        self.layers: Sequence[LayerShape] = [call.shape for call in self._calls]
        self._stamps: dict[int, Stamp] = {}
        self._structure: tuple[object, ...] = ()
        self._fused: FusedDecoder | None = None
        self._swaps: ModuleSwaps | None = None
        self._reason = ""

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

    def seen(self, stamps: Sequence[Stamp]) -> None:
        """Take note of new values: ``stamps`` are in the order of ``model.parameters()``."""
        parameters = self.model.parameters()
        self._stamps = {id(p): stamp for p, stamp in zip(parameters, stamps, strict=True)}

    def _stamp(self, parameter: torch.Tensor) -> Stamp:
        return (*self._stamps.get(id(parameter), ()), parameter.data_ptr(), parameter._version)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Context in which `forward` may be called; outside, the model is as its owner left it."""
        with engine_attention(self.model):
            self._settle()
            if self._fused is not None:
                self._fused.refresh(self._stamp)
                yield
            else:
                assert self._swaps is not None
                self._swaps.refresh(self._stamp)
                with self._swaps.active():
                    yield

    def forward(self, step: Step, pool: KVPool) -> torch.Tensor:
        """Logits [L, vocab] of ``step.logit_rows``, valid until the next call.

        Keys and values of all rows are written.
        """
        context = StepContext(k=pool.k, v=pool.v, slots=step.slots, plan=step.plan)
        # no_grad and not inference_mode: modules may cache tensors that training uses later.
        with torch.no_grad():
            if self._fused is not None:
                return self._fused.forward(step.input_ids, step.positions, context, step.logit_rows)
            return self._own_forward(step.input_ids, step.positions, context, step.logit_rows)

    def _own_forward(
        self, ids: torch.Tensor, positions: torch.Tensor, context: StepContext, keep: torch.Tensor
    ) -> torch.Tensor:
        output = self.model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=keep,
            fastsi_step=context,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def describe(self) -> dict[str, Any]:
        """Which forward is used and why, and the bytes of weights."""
        if self._fused is None and self._swaps is None:
            with engine_attention(self.model):
                self._settle()
        products = self._fused.products if self._fused else self._swaps.products  # type: ignore[union-attr]
        own = {p.data_ptr(): p.nbytes for p in self.model.parameters()}
        return {
            "forward": "fused" if self._fused else "modules",
            "reason": self._reason,
            "packed_linears": sum(len(product.layers) for product in products),
            "parameter_bytes": sum(own.values()),
            "packed_bytes": sum(product.nbytes for product in products),
        }

    def _settle(self) -> None:
        """Choose the forward; again only if modules, or hooks in them, have changed."""
        structure = tuple(
            (id(m), bool(m._forward_hooks or m._forward_pre_hooks), "forward" in vars(m))
            for m in self.model.modules()
        )
        if structure == self._structure:
            return
        self._structure = structure
        self._fused, self._swaps = None, None
        try:
            self._fused = self._fuse()
            self._reason = "built like Llama, and equal on a few tokens"
        except NotFused as reason:
            self._reason = str(reason)
            self._swaps = ModuleSwaps(self.model, self._mode)

    def _fuse(self) -> FusedDecoder:
        """The fused pass, if it computes what the model's own forward computes.

        Raises:
            NotFused: it does not; the message says why.
        """
        hooked = fused_decoder.untouched(self.model)
        if hooked is not None:
            raise NotFused(hooked)
        longest = architecture.context_length(self.model.config)
        fused = FusedDecoder(self.model, self._calls, self._mode, longest)
        count = min(_PROBE_TOKENS, longest)
        vocab = architecture.text_config(self.model.config).vocab_size
        # Any tokens do; a multiplier scatters them over the vocabulary.
        ids = torch.arange(1, count + 1) * 7919 % vocab
        positions = torch.arange(count)
        plan = ops.SegmentPlan.from_lists(
            pages=[[0]],
            page_offset=[0],
            kv_len=[count],
            kv_start=[0],
            rows=[(0, count)],
            causal=[True],
            row_pos=list(range(count)),
        )
        results = []
        with torch.no_grad():
            for run in (self._own_forward, fused.forward):
                pool = KVPool(
                    self.layers, num_pages=1, page_size=count, dtype=self.dtype, device=self.device
                )
                context = StepContext(k=pool.k, v=pool.v, slots=positions, plan=plan)
                plain = {"plain": True} if run == fused.forward else {}
                results.append(run(ids, positions, context, positions, **plain))
        own, ours = results
        largest = float(own.abs().max())
        difference = float((own - ours).abs().max())
        if not difference <= _AGREEMENT * largest:
            raise NotFused(f"its logits differ by {difference:.2g} of {largest:.2g}")
        return fused
