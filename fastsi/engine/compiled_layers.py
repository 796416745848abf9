"""The pass of a `FusedDecoder`, from tokens to logits, in one call of the extension.

Called one by one from Python, the eight ops of a layer cost a small model a third of its step.
Importing this module loads the extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import nn

from fastsi import _ext
from fastsi.engine.attention import StepContext
from fastsi.engine.buffers import Buffers, buffer
from fastsi.engine.decode_run import SECONDS, DecodeRun, StopSearch
from fastsi.engine.packed_layers import PackedLayers
from fastsi.ops._view import maybe_view, view
from fastsi.ops.sample_tokens._cpu import PARAMS
from fastsi.ops.segment_attention._cpu import checked_plan, own_plan

if TYPE_CHECKING:
    from fastsi import _C
    from fastsi.engine.fused_decoder import Layer, Norm

_ACTIVATIONS = {"silu": 1, "gelu": 2, "gelu_tanh": 3}


@dataclass(frozen=True, slots=True, eq=False)
class _Scratch:
    """Memory for a number of rows, and views of it: the steps of a call hardly ever change it."""

    held: Buffers
    rows: int
    kept: int
    tables: tuple[torch.Tensor, torch.Tensor]
    tensors: list[torch.Tensor]
    """Embedded tokens first; kept here, since ``held`` may get others when it grows."""
    views: list[_C.TensorView]
    table_views: list[_C.TensorView]

    def fits(
        self, held: Buffers, rows: int, kept: int, tables: tuple[torch.Tensor, torch.Tensor]
    ) -> bool:
        same = self.held is held and self.tables is tables
        return same and (self.rows, self.kept) == (rows, kept)


class CompiledLayers:
    """The layers as the extension reads them, over memory that this object keeps alive.

    Results have the bits that the ops give one by one. Packed weights are those at the time of
    making; norms are read from the model's own memory.
    """

    def __init__(
        self, embed: nn.Module, layers: Sequence[Layer], norm: Norm, head: PackedLayers
    ) -> None:
        self._core = _ext.core()
        self._held: list[object] = []
        self._seen: tuple[Sequence[torch.Tensor] | None, ...] = (None,) * 4
        self._views: list[list[_C.TensorView]] = []
        self._embed = embed
        self.looks_up = _is_lookup(embed)
        """Whether the extension looks tokens up itself."""
        self._columns = _columns(layers[0])
        self._scratch: _Scratch | None = None
        made = [self._layer(layer) for layer in layers]
        weight = self._vector(embed.weight) if self.looks_up else None  # type: ignore[arg-type]
        self._decoder = self._core.Decoder(weight, made, self._norm(norm), self._linear(head))

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
        context: StepContext,
        keep: torch.Tensor,
        held: Buffers,
        logits: torch.Tensor,
    ) -> None:
        """Run the embedding, the layers, the last norm and the head.

        Args:
            ids: int64 [R].
            positions: int64 [R].
            tables: cos and sin [P, rotary] by position.
            context: caches, slots and plan of the step.
            keep: int64 [L], rows whose logits are wanted.
            held: memory for results between ops.
            logits: float32 [L, vocab], written.

        Raises:
            ValueError: shapes or types disagree, or a token or position is none.
        """
        plan = checked_plan(context.plan, context.k[0].shape[2])
        scratch = self._scratch_for(logits, len(ids), len(keep), tables, held)
        if not self.looks_up:
            scratch.tensors[0].copy_(self._embed(ids))
        step = self._step(ids if self.looks_up else None, positions, context, keep, scratch)
        threads = torch.get_num_threads()
        self._decoder.forward(step, plan, scratch.views, view(logits), threads)

    def decode(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
        context: StepContext,
        held: Buffers,
        logits: torch.Tensor,
        run: DecodeRun,
    ) -> None:
        """Make the steps of a run, see there; all rows draw. Only where `looks_up`.

        Args:
            ids: int64 [R], moved on.
            positions: int64 [R], moved on.
            tables: as in `forward`, of all positions of the run.
            context: as in `forward`; the slots are moved on, the plan is copied.
            held: memory for results between ops.
            logits: float32 [R, vocab], written.
            run: what follows each pass; gets the results.

        Raises:
            ValueError: as in `forward`, or the plan has no room for the tokens of the run.
        """
        keep = torch.arange(len(ids))
        plan = own_plan(context.plan, context.k[0].shape[2])
        scratch = self._scratch_for(logits, len(ids), len(ids), tables, held)
        drawn = run.drawn
        run.steps, run.draw_seconds = self._decoder.decode(
            self._step(ids, positions, context, keep, scratch),
            plan,
            scratch.views,
            view(logits),
            [view(getattr(run.params, name)) for name in PARAMS],
            [view(t) for t in (drawn.token, drawn.logprob, drawn.logprob_full, drawn.kept_mass)],
            maybe_view(drawn.logprob_raw),
            [view(run.end_indptr), view(run.end_ids)],
            None if run.search is None else self._search(run.search),
            None if run.top is None else list(map(view, run.top)),
            SECONDS,
            torch.get_num_threads(),
        )

    def _search(self, search: StopSearch) -> _C.StopSearch:
        table = search.table
        made: _C.StopSearch = self._core.StopSearch(
            view(search.slots),
            [view(table.data), view(table.offsets), view(table.flags)],
            [view(getattr(search.rules, field.name)) for field in fields(search.rules)],
            [view(getattr(search.state, field.name)) for field in fields(search.state)],
            view(search.hit),
        )
        return made

    def _step(
        self,
        ids: torch.Tensor | None,
        positions: torch.Tensor,
        context: StepContext,
        keep: torch.Tensor,
        scratch: _Scratch,
    ) -> _C.DecoderStep:
        made: _C.DecoderStep = self._core.DecoderStep(
            None if ids is None else view(ids),
            view(positions),
            view(keep),
            *scratch.table_views,
            *self._caches(context),
            view(context.slots),
        )
        return made

    def _scratch_for(
        self,
        like: torch.Tensor,
        rows: int,
        kept: int,
        tables: tuple[torch.Tensor, torch.Tensor],
        held: Buffers,
    ) -> _Scratch:
        found = self._scratch
        if found is None or not found.fits(held, rows, kept, tables):
            found = self._scratch = self._make_scratch(like, rows, kept, tables, held)
        return found

    def _make_scratch(
        self,
        like: torch.Tensor,
        rows: int,
        kept: int,
        tables: tuple[torch.Tensor, torch.Tensor],
        held: Buffers,
    ) -> _Scratch:
        """See ``DecoderScratch`` in csrc/include/fastsi/decoder.h."""
        rotary = tables[0].shape[1]
        columns = {"hidden": self._columns["normed"], "cos": rotary, "sin": rotary} | self._columns
        sizes = {name: (rows, count) for name, count in columns.items()}
        sizes["kept"] = kept, columns["hidden"]
        made = [buffer(held, name, size, like.dtype, like.device) for name, size in sizes.items()]
        views = list(map(view, made))
        return _Scratch(held, rows, kept, tables, made, views, list(map(view, tables)))

    def _caches(self, context: StepContext) -> list[list[_C.TensorView]]:
        """Views of the caches and their scales, made once for a pool: a step has hundreds."""
        lists = (context.k, context.v, context.k_scales, context.v_scales)
        if any(seen is not now for seen, now in zip(self._seen, lists, strict=True)):
            self._seen, self._views = lists, [[view(cache) for cache in each] for each in lists]
        return self._views

    def _layer(self, layer: Layer) -> _C.DecoderLayer:
        head_norms = None
        if layer.q_norm is not None and layer.k_norm is not None:
            weights = (self._vector(layer.q_norm.weight), self._vector(layer.k_norm.weight))
            head_norms = self._core.DecoderHeadNorms(*weights, layer.q_norm.eps)
        scale = layer.call.scale
        made: _C.DecoderLayer = self._core.DecoderLayer(
            self._norm(layer.before),
            self._linear(layer.qkv),
            head_norms,
            layer.call.shape.head_dim**-0.5 if scale is None else scale,
            layer.call.softcap or 0.0,
            layer.call.window or 0,
            self._linear(layer.output),
            self._norm(layer.between),
            self._linear(layer.gate_up),
            _ACTIVATIONS[layer.activation],
            self._linear(layer.down),
        )
        return made

    def _norm(self, norm: Norm) -> _C.DecoderNorm:
        made: _C.DecoderNorm = self._core.DecoderNorm(self._vector(norm.weight), norm.eps)
        return made

    def _linear(self, product: PackedLayers) -> _C.DecoderLinear:
        packed, bias = product.packed
        self._held.append(packed)
        kept = None if bias is None else self._vector(bias)
        made: _C.DecoderLinear = self._core.DecoderLinear(packed.handle, kept)
        return made

    def _vector(self, tensor: torch.Tensor) -> _C.TensorView:
        # Detached: the storage outlives a parameter that is given another one.
        kept = tensor.detach().contiguous()
        self._held.append(kept)
        return view(kept)


def _is_lookup(embed: nn.Module) -> bool:
    """Whether the rows of the weight are all that the module gives: some scale them."""
    if type(embed) is not nn.Embedding or embed.max_norm is not None:
        return False
    return embed.weight.dtype in (torch.float32, torch.bfloat16)


def _columns(layer: Layer) -> dict[str, int]:
    return {
        "normed": len(layer.before.weight),
        "qkv": layer.qkv.out_features,
        "attended": layer.call.q_heads * layer.call.shape.head_dim,
        "lse": layer.call.q_heads,
        "gated": layer.gate_up.out_features,
    }
