"""Runs the user's transformers model on a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from fastsi import ops
from fastsi.engine import architecture, decode_run, packed_layers, weights
from fastsi.engine.agreement import disagreement
from fastsi.engine.attention import LayerCall, StepContext, engine_attention
from fastsi.engine.config import Graphs, KVDtype
from fastsi.engine.fused_decoder import FusedDecoder, NotFused
from fastsi.engine.graphs import DecodeGraphs
from fastsi.engine.kv_pool import KVPool, LayerShape, cache_dtype
from fastsi.engine.module_swaps import ModuleSwaps
from fastsi.engine.packed_layers import PackedLayers, Stamp
from fastsi.engine.plan import Step
from fastsi.engine.released import (
    is_released,
    let_memory_go,
    refuse_if_released,
    releasable,
)
from fastsi.engine.sampler import Drawn, Sampler
from fastsi.engine.staging import to_device
from fastsi.errors import ConfigError
from fastsi.ops.segment_attention.work import WorkShape, plan_work

Quantization = Literal["bf16", "int8"]

_PROBE_TOKENS = 33
_PROBE_PAGE = 16
_RECORDED = ("norm_rope_act", "linear", "segment_attention", "sample_tokens")


class ModelRunner:
    """Holds the live module; its parameters are the caller's own.

    How a pass is made is settled for each structure of the model: by `FusedDecoder` where the
    model is built like Llama, else by its own forward with swapped modules (`ModuleSwaps`). Packed
    weights are caches, made when a session starts and made anew when parameters have changed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        quantization: Quantization | None = None,
        kv_dtype: KVDtype = "auto",
        deterministic: bool = False,
        pack_later: bool = False,
    ) -> None:
        """Check that the engine can run the model, and how.

        Args:
            model: live model, or a PEFT wrapper around one.
            quantization: arithmetic of linear layers; None: that of the weights.
            kv_dtype: of the KV cache; "auto": that of the weights.
            deterministic: make sure that a row's bits do not depend on its batch.
            pack_later: `release_weights` follows, so do not pack just to check `quantization`.

        Raises:
            ModelError: the model uses a feature that cannot run.
            ConfigError: the model cannot be run in the way asked for.
        """
        # A PEFT model wraps the base model, into whose modules its adapters are already inserted.
        unwrap = getattr(model, "get_base_model", None)
        self.model: PreTrainedModel = unwrap() if callable(unwrap) else model
        self._mode, self._deterministic = quantization or "fp32", deterministic
        self._calls: Sequence[LayerCall] = architecture.inspect(self.model)
        self.layers: Sequence[LayerShape] = [call.shape for call in self._calls]
        self.seen(weights.fingerprint(self.model).parameters)
        self._structure: tuple[object, ...] = ()
        self._release = False
        self._releasable: frozenset[int] | None = None
        self._fused: FusedDecoder | None = None
        self._swaps: ModuleSwaps | None = None
        self._reason = ""
        self._make_graphs: Callable[[FusedDecoder], DecodeGraphs | None] = lambda _: None
        self._graphs: DecodeGraphs | None = None
        self.kv_dtype = cache_dtype(kv_dtype, self.dtype, self.device)
        if deterministic or (quantization is not None and not pack_later):
            with self.session():
                pass

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
        self._stamps: dict[int, Stamp] = {
            id(p): stamp for p, stamp in zip(parameters, stamps, strict=True)
        }

    def _stamp(self, parameter: torch.Tensor) -> Stamp:
        return (*self._stamps.get(id(parameter), ()), parameter.data_ptr(), parameter._version)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Context in which `forward` may be called; outside, the model is as its owner left it."""
        with engine_attention(self.model):
            changed = self._settle()
            (self._fused or self._own_swaps).refresh(self._stamp, self._given_up())
            with nullcontext() if self._fused else self._own_swaps.active():
                if changed:
                    self._check_promises()
                if self._fused is not None and self._graphs is None:
                    self._graphs = self._make_graphs(self._fused)
                yield

    def release_weights(self) -> None:
        """Give up the memory of parameters that are packed and read by nothing else of the pass.

        One product after another, so that all weights never stand beside all packed copies.

        Raises:
            ConfigError: the model is on a GPU, where products read the parameters themselves.
        """
        if self.device.type != "cpu":
            raise ConfigError(
                f"release_weights=True: the model is on {self.device}, where weights are used as "
                f"they are and not held twice; leave the option out"
            )
        if self._deterministic:  # its checks may refuse the model, which must then be whole
            with self.session():
                pass
        self._release = True
        with self.session():
            pass
        let_memory_go(self.model)

    def restore_weights(self) -> None:
        """Bring released parameters back, bit for bit; raises as `PackedLayers.restore` does."""
        for product in self._products:
            product.restore()
        self._release, self._releasable = False, None

    @contextmanager
    def reopening(self) -> Iterator[Callable[[nn.Parameter], None]]:
        """Context for writing to parameters; see `packed_layers.reopening`."""
        if self._release and self._fused:
            self._fused.let_go()

        def close(product: PackedLayers) -> None:
            product.refresh(self._stamp, self._given_up())

        with packed_layers.reopening(self._products, close) as before_write:
            yield before_write

    def _given_up(self) -> frozenset[int]:
        """``id`` of the parameters whose memory is given up."""
        if not self._release:
            return frozenset()
        if self._releasable is None:
            if self._fused is not None:
                elsewhere = self._fused.read_elsewhere()
            else:
                ids, positions, context = self._probe()
                step = (ids, positions, context(), positions)
                with torch.no_grad():
                    elsewhere = self._own_swaps.read_elsewhere(lambda: self._own_forward(*step))
            packed = [weight for product in self._products for weight in product.weights]
            self._releasable = releasable(self.model, packed) - elsewhere
        return self._releasable

    @property
    def _products(self) -> list[PackedLayers]:
        """All packed products; none before a forward is chosen."""
        way = self._fused or self._swaps
        return way.products if way else []

    def use_graphs(self, mode: Graphs, pool: KVPool, sampler: Sampler, *, max_rows: int) -> None:
        """Let steps of up to ``max_rows`` rows be replayed; see `EngineConfig.graphs`.

        Args:
            mode: whether and how.
            pool: as in every later call of `forward`.
            sampler: draws as part of the pass, where it can.
            max_rows: most rows.
        """

        def make(decoder: FusedDecoder) -> DecodeGraphs | None:
            if mode == "off" or not decoder.alike or (mode == "auto" and not self._recordable()):
                return None
            shape = self._work_shape(pool.page_size)
            capture = mode != "eager"
            return DecodeGraphs(decoder, pool, sampler, shape, max_rows=max_rows, capture=capture)

        self._make_graphs, self._graphs = make, None

    def _work_shape(self, page_size: int) -> WorkShape:
        """How attention is cut into work on a GPU, for layers like the first."""
        call = self._calls[0]
        return WorkShape.for_heads(
            call.q_heads,
            *call.shape,
            page_size,
            element_bytes=self.dtype.itemsize,
            deterministic=self._deterministic,
        )

    def _with_work(self, plan: ops.SegmentPlan, page_size: int) -> ops.SegmentPlan:
        """The plan with a list of fixed splits where rows must not depend on their batch.

        Elsewhere the op plans for itself; on a CPU every row has its own order of sums anyway.
        """
        if not self._deterministic or self.device.type != "cuda":
            return plan
        work = plan_work(plan, self._work_shape(page_size)).to(self.device)
        return dataclasses.replace(plan, work=work)

    def _recordable(self) -> bool:
        """Whether every op of a step runs on kernels that never wait for the device."""
        if self.device.type != "cuda":
            return False
        row = torch.empty(0, dtype=self.dtype, device=self.device)
        return all(ops.chosen_backend(op, row) != "reference" for op in _RECORDED)

    def forward(
        self, step: Step, pool: KVPool, drawn: torch.Tensor
    ) -> tuple[torch.Tensor, Drawn | None]:
        """Run a step: keys and values of all rows are written. Nothing waits for the device.

        Args:
            step: what to run.
            pool: keys and values.
            drawn: int64 [table slots], the token last drawn in each, where ``step`` has none.

        Returns:
            Logits of the L rows that need them, maybe followed by others, valid until the next
            call, and the tokens of the step's drawing slots, if they were drawn in the same go.
        """
        if self._graphs is not None:
            with torch.no_grad():
                replayed = self._graphs.forward(step)
            if replayed is not None:
                return replayed
        host = step.rows()
        rows = to_device(
            {name: getattr(host, name) for name in ("slots", "positions", "logit_rows")}
            | {"ids": host.input_ids, "from": host.table_slots},
            self.device,
        )
        ids = rows["ids"]
        if (host.input_ids < 0).any():
            ids = torch.where(ids < 0, drawn[rows["from"]], ids)
        fields: dict[str, Any] = dict(to_device(host.segments, self.device))
        plan = self._with_work(ops.SegmentPlan(**fields, host=host.segments), pool.page_size)
        context = StepContext.over(pool, rows["slots"], plan)
        run = self._own_forward if self._fused is None else self._fused.forward
        # no_grad and not inference_mode: modules may cache tensors that training uses later.
        with torch.no_grad():
            return run(ids, rows["positions"], context, rows["logit_rows"]), None

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

    def can_decode(self) -> bool:
        """Whether `decode` can run the model as it is now."""
        return self._graphs is None and self._fused is not None and self._fused.can_decode()

    def decode(self, step: Step, pool: KVPool, run: decode_run.DecodeRun) -> None:
        """Run several steps in one call, see `decode_run`.

        Args:
            step: the first; of decode rows alone, whose tokens the host knows.
            pool: keys and values.
            run: over the step's drawing slots; gets the results.
        """
        assert self._fused is not None
        with torch.no_grad():
            self._fused.decode(*decode_run.inputs(step, pool), run)

    def describe(self) -> dict[str, Any]:
        """Which forward is used and why, and the bytes of weights."""
        if self._fused is None and self._swaps is None:
            with engine_attention(self.model):
                self._settle()
        products, parameters = self._products, list(self.model.parameters())
        own = {p.data_ptr(): p.nbytes for p in parameters if not is_released(p)}
        return {
            "forward": "fused" if self._fused else "modules",
            "reason": self._reason,
            "packed_linears": sum(len(product.layers) for product in products),
            "graphs_captured": self._graphs.num_captured if self._graphs else 0,
            "graphs_replayed": self._graphs.num_replayed if self._graphs else 0,
            "steps_followed": self._graphs.num_followed if self._graphs else 0,
            "parameter_bytes": sum(own.values()),
            "packed_bytes": sum(product.nbytes for product in products),
            "released_bytes": sum(p.nbytes for p in parameters if is_released(p)),
        }

    @property
    def _own_swaps(self) -> ModuleSwaps:
        assert self._swaps is not None
        return self._swaps

    def _settle(self) -> bool:
        """Choose the forward if modules, their hooks or dtype have changed; returns whether so."""
        structure = (
            self.dtype,
            *(
                (id(m), bool(m._forward_hooks or m._forward_pre_hooks), "forward" in vars(m))
                for m in self.model.modules()
            ),
        )
        if structure == self._structure:
            return False
        refuse_if_released(self.model, "modules of the model, their hooks or dtype have changed")
        self._structure, self._releasable = structure, None
        self._fused, self._swaps, self._graphs = None, None, None
        try:
            self._fused = self._fuse()
            self._reason = "built like Llama, and equal on a few tokens"
        except NotFused as reason:
            self._reason = str(reason)
            self._swaps = ModuleSwaps(self.model, self._mode, deterministic=self._deterministic)
        return True

    def _check_promises(self) -> None:
        """Refuse a model for which an option that was asked for would not hold.

        Raises:
            ConfigError: the message names the module in the way.
        """
        left = {} if self._fused else self._own_swaps.left
        first = next((f"{name}: {reason}" for name, reason in left.items()), None)
        if self._mode != "fp32" and not (self._fused or self._own_swaps.products):
            raise ConfigError(f"quantization={self._mode!r}: no layer can be quantised; {first}")
        if not self._deterministic:
            return
        if self.device.type == "cuda" and len({(c.shape, c.q_heads) for c in self._calls}) > 1:
            raise ConfigError("deterministic=True: layers of different heads cannot share a plan")
        if first is not None:
            raise ConfigError(f"deterministic=True: a row's bits depend on its batch in {first}")
        everything = self._probe_alone(_PROBE_TOKENS)
        for count in (1, 2, 5):
            if not torch.equal(self._probe_alone(count), everything[:count]):
                raise ConfigError(
                    f"deterministic=True: {type(self.model).__name__} gives rows other bits in a "
                    f"batch of {count} than in one of {_PROBE_TOKENS}"
                )

    def _probe_alone(self, count: int) -> torch.Tensor:
        """Logits of the first ``count`` tokens, each a sequence of its own."""
        rows = list(range(count))
        places = [3 * row for row in rows]
        plan = ops.SegmentPlan.from_lists(
            pages=[[row] for row in rows],
            page_offset=[0] * count,
            kv_len=[1] * count,
            kv_start=places,
            rows=[(row, row + 1) for row in rows],
            causal=[False] * count,
            row_pos=places,
            device=self.device,
        )
        pool = self._small_pool(count, self.kv_dtype)
        every = torch.arange(count, device=self.device)
        plan = self._with_work(plan, pool.page_size)
        context = StepContext.over(pool, every * pool.page_size, plan)
        run = self._fused.forward if self._fused else self._own_forward
        with torch.no_grad():
            return run(self._probe_ids(count), 3 * every, context, every).clone()

    def _probe_ids(self, count: int) -> torch.Tensor:
        """Any tokens do; a multiplier scatters them over the vocabulary."""
        vocab: int = architecture.text_config(self.model.config).vocab_size
        return torch.arange(1, count + 1, device=self.device) * 7919 % vocab

    def _small_pool(self, pages: int, dtype: torch.dtype) -> KVPool:
        """Pages of the usual size, since kernels are compiled for it."""
        return KVPool(
            self.layers,
            num_pages=pages,
            page_size=_PROBE_PAGE,
            dtype=dtype,
            device=self.device,
        )

    def _fuse(self) -> FusedDecoder:
        """The fused pass, if it computes what the model's own forward computes.

        Raises:
            NotFused: it does not; the message says why.
        """
        hooked = architecture.hooked(self.model)
        if hooked is not None:
            raise NotFused(hooked)
        longest = architecture.context_length(self.model.config)
        fused = FusedDecoder(
            self.model, self._calls, self._mode, longest, deterministic=self._deterministic
        )
        ids, positions, context = self._probe()
        with torch.no_grad():
            own = self._own_forward(ids, positions, context(), positions)
            ours = fused.forward(ids, positions, context(), positions, plain=True)
        reason = disagreement(own, ours)
        if reason is not None:
            raise NotFused(reason)
        return fused

    def _probe(self) -> tuple[torch.Tensor, torch.Tensor, Callable[[], StepContext]]:
        """Ids and positions [T] of one sequence, and what makes an empty cache and plan for it."""
        count = min(_PROBE_TOKENS, architecture.context_length(self.model.config))
        pages = -(-count // _PROBE_PAGE)
        ids, positions = self._probe_ids(count), torch.arange(count, device=self.device)
        plan = ops.SegmentPlan.from_lists(
            pages=[list(range(pages))],
            page_offset=[0],
            kv_len=[count],
            kv_start=[0],
            rows=[(0, count)],
            causal=[True],
            row_pos=list(range(count)),
            device=self.device,
        )

        def context() -> StepContext:
            # Whether two passes agree shows best without what a narrow cache rounds away.
            return StepContext.over(self._small_pool(pages, self.dtype), positions, plan)

        return ids, positions, context
