"""The pass of a `FusedDecoder`, from embedded tokens to logits, in one call of the extension.

Called one by one from Python, the eight ops of a layer cost a small model a third of its step.
Importing this module loads the extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fastsi import _ext
from fastsi.engine.attention import StepContext
from fastsi.engine.packed_layers import PackedLayers
from fastsi.ops._view import view
from fastsi.ops.segment_attention._cpu import checked_plan

if TYPE_CHECKING:
    from fastsi import _C
    from fastsi.engine.fused_decoder import Layer, Norm

_ACTIVATIONS = {"silu": 1, "gelu": 2, "gelu_tanh": 3}


class CompiledLayers:
    """The layers as the extension reads them, over memory that this object keeps alive.

    Results have the bits that the ops give one by one. Packed weights are those at the time of
    making; norms are read from the model's own memory.
    """

    def __init__(self, layers: Sequence[Layer], norm: Norm, head: PackedLayers) -> None:
        self._core = _ext.core()
        self._held: list[object] = []
        self._seen: tuple[Sequence[torch.Tensor] | None, ...] = (None,) * 4
        self._views: list[list[_C.TensorView]] = []
        made = [self._layer(layer) for layer in layers]
        self._decoder = self._core.Decoder(made, self._norm(norm), self._linear(head))

    def forward(
        self,
        hidden: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
        context: StepContext,
        keep: torch.Tensor,
        scratch: Sequence[torch.Tensor],
        logits: torch.Tensor,
    ) -> None:
        """Run the layers, the last norm and the head.

        Args:
            hidden: embedded tokens [R, H], contiguous float32; overwritten.
            tables: cos and sin [R, rotary].
            context: caches, slots and plan of the step.
            keep: int64 [L], rows whose logits are wanted.
            scratch: see ``DecoderScratch`` in csrc/include/fastsi/decoder.h.
            logits: [L, vocab], written.

        Raises:
            ValueError: shapes or types disagree.
        """
        plan = checked_plan(context.plan, context.k[0].shape[2])
        normed, qkv, attended, lse, gated, kept = map(view, scratch)
        self._decoder.forward(
            view(hidden),
            view(keep),
            *map(view, tables),
            *self._caches(context),
            view(context.slots),
            plan,
            (normed, qkv, attended, lse, gated, kept),
            view(logits),
            torch.get_num_threads(),
        )

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
