"""One forward pass for decoders built like Llama, over packed weights and fused ops.

A layer is norm, attention over rotated heads, residual, norm, gated MLP, residual. Which models are
built so is decided by their modules (`recognise`) and then by numbers: the pass is used only if it
computes, on a few tokens, what the model's own forward computes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from fastsi import ops
from fastsi.engine import packed_layers
from fastsi.engine.attention import LayerCall, StepContext
from fastsi.engine.buffers import Buffers, buffer
from fastsi.engine.decode_run import DecodeRun
from fastsi.engine.module_swaps import MLP_PARTS, activation_of
from fastsi.engine.packed_layers import PackedLayers, Stamper

if TYPE_CHECKING:
    from fastsi.engine.compiled_layers import CompiledLayers

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_DECODER = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER_OPS = ("norm_rope_act", "linear", "segment_attention")
_DRAW_OPS = ("sample_tokens", "top_logprobs")
_FIRST_POSITIONS = 1024
_Run = Callable[..., torch.Tensor]


class NotFused(Exception):
    """The model is not built as this pass assumes; the message says where."""


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """An RMSNorm of the model."""

    module: nn.Module
    eps: float

    @property
    def own(self) -> torch.Tensor:
        """[H], the model's."""
        found: torch.Tensor = self.module.weight  # type: ignore[assignment]
        return found

    @property
    def weight(self) -> torch.Tensor:
        """[H], of the rows' dtype: the model's own, or a copy."""
        return self.own.to(packed_layers.rows_dtype(self.own))


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A layer of the model, taken apart."""

    before: Norm
    qkv: PackedLayers
    q_norm: Norm | None
    k_norm: Norm | None
    output: PackedLayers
    between: Norm
    gate_up: PackedLayers
    activation: str
    down: PackedLayers
    call: LayerCall


class FusedDecoder:
    """The pass for one model; holds its modules and the packed copies of their weights."""

    def __init__(
        self,
        model: PreTrainedModel,
        calls: Sequence[LayerCall],
        mode: str,
        longest: int,
        *,
        deterministic: bool = False,
    ) -> None:
        """Take the model apart.

        Args:
            model: live model.
            calls: what each layer asked of attention.
            mode: arithmetic of the products, see `ops.pack_weight`.
            longest: most positions a sequence may have, tokens.
            deterministic: as in `PackedLayers`.

        Raises:
            NotFused: it is built in another way.
        """
        decoder, head = _parts(model)
        packing = _Packing(mode, deterministic)
        self._embed: nn.Module = decoder["embed_tokens"]
        self._rotary: nn.Module = decoder["rotary_emb"]
        self._norm = _norm(decoder["norm"], "norm")
        self._head = packing.of([packing.linear(head, "lm_head")])
        layers = list(decoder["layers"].children())
        if len(layers) != len(calls):
            raise NotFused(f"{len(layers)} layers, of which {len(calls)} attend")
        self._layers = [
            _layer(module, call, packing, f"layers.{number}")
            for number, (module, call) in enumerate(zip(layers, calls, strict=True))
        ]
        self._longest = longest
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None
        self._buffers: Buffers = {}
        sizes = {
            (one.qkv.out_features, one.gate_up.out_features, one.call.shape) for one in self._layers
        }
        self.alike = len(sizes) == 1
        """Whether all layers have the same sizes."""
        self._where: tuple[int, ...] = ()
        self.version = 0
        """Changes when memory that `forward` reads, other than its arguments, is another."""
        self._compiled: CompiledLayers | None = None

    def _read_in_place(self) -> Iterator[torch.Tensor]:
        """Weights that have no packed copy."""
        yield from self._embed.parameters()
        yield self._norm.own
        for layer in self._layers:
            for norm in (layer.before, layer.q_norm, layer.k_norm, layer.between):
                if norm is not None:
                    yield norm.own

    @property
    def dtype(self) -> torch.dtype:
        """Of rows."""
        return packed_layers.rows_dtype(self._norm.own)

    def reserve(self, rows: int) -> Buffers:
        """Memory for passes of up to ``rows`` rows that stays where it is."""
        sizes = {"normed": len(self._norm.weight), "logits": self._head.out_features}
        sizes["qkv"] = max(layer.qkv.out_features for layer in self._layers)
        sizes["gated"] = max(layer.gate_up.out_features for layer in self._layers)
        made: Buffers = {}
        for name, columns in sizes.items():
            buffer(made, name, (rows, columns), self.dtype, self._norm.own.device)
        return made

    @property
    def products(self) -> list[PackedLayers]:
        """Every packed product."""
        found = [self._head]
        for layer in self._layers:
            found += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return found

    def read_elsewhere(self) -> set[int]:
        """``id`` of parameters that the pass reads outside packed products."""
        return {id(weight) for weight in self._read_in_place()}

    def let_go(self) -> None:
        """Hold on to no packed copies but the products' own."""
        self._compiled = None
        self.version += 1

    def refresh(self, stamp: Stamper, release: Collection[int] = ()) -> None:
        """Pack what has changed; tables of positions are made anew.

        Args:
            stamp: see `PackedLayers.refresh`.
            release: see there.
        """
        self._compiled = None  # first, since it holds on to what is packed
        repacked = [product.refresh(stamp, release) for product in self.products]
        where = tuple(weight.data_ptr() for weight in self._read_in_place())
        self.version += any(repacked) or where != self._where
        self._where = where
        if self._tables is not None and not self._tables[0].is_cuda:
            self._tables = None
        elif self._tables is not None:  # in place: recorded graphs read them
            for table, fresh in zip(self._tables, self._rotary_tables(self._longest), strict=True):
                table.copy_(fresh)

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        context: StepContext,
        keep: torch.Tensor,
        *,
        plain: bool = False,
        buffers: Buffers | None = None,
    ) -> torch.Tensor:
        """Logits [L, vocab] of some rows, valid until the next call with the same buffers.

        Args:
            ids: int64 [R].
            positions: int64 [R].
            context: caches, slots and plan of the step.
            keep: int64 [L], rows whose logits are wanted.
            plain: let the model's own layers make the products, in place of the packed copies.
            buffers: memory for results between ops; None: the decoder's own.
        """
        held = self._buffers if buffers is None else buffers
        run: _Run = PackedLayers.plain if plain else PackedLayers.__call__
        tables = self._rotary_tables_for(positions)
        shape = len(keep), self._head.out_features
        logits = buffer(held, "logits", shape, self.dtype, ids.device)
        if not plain and self._in_one_call(logits):
            self._layers_compiled.forward(ids, positions, tables, context, keep, held, logits)
            return logits
        hidden = self._embed(ids).to(self.dtype)
        cos, sin = tables
        tables = cos[positions], sin[positions]
        kept = self._run_ops(hidden, tables, context, keep, run, held)
        ops.rms_norm(kept, self._norm.weight, self._norm.eps, out=kept)
        return run(self._head, kept, out=logits)

    def _run_ops(
        self,
        hidden: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
        context: StepContext,
        keep: torch.Tensor,
        run: _Run,
        held: Buffers,
    ) -> torch.Tensor:
        """The layers, op by op and in place: what every backend can do, and the definition.

        Returns the rows ``keep``; of the others the last layer has only written keys and values.
        """

        def made(name: str, columns: int) -> torch.Tensor:
            return buffer(held, name, (len(hidden), columns), hidden.dtype, hidden.device)

        normed = made("normed", hidden.shape[1])
        for number, layer in enumerate(self._layers):
            ops.rms_norm(hidden, layer.before.weight, layer.before.eps, out=normed)
            qkv = made("qkv", layer.qkv.out_features)
            attended = _attend(layer, number, run(layer.qkv, normed, out=qkv), tables, context)
            if number + 1 == len(self._layers):
                attended, hidden, normed = attended[keep], hidden[keep], normed[: len(keep)]
            run(layer.output, attended, residual=hidden, out=hidden)
            ops.rms_norm(hidden, layer.between.weight, layer.between.eps, out=normed)
            gated = made("gated", layer.gate_up.out_features)
            run(layer.gate_up, normed, activation=layer.activation, out=gated)
            run(layer.down, gated, residual=hidden, out=hidden)
        return hidden

    def _in_one_call(self, rows: torch.Tensor) -> bool:
        """Whether the layers share their scratch memory and every op would run on the extension."""
        return self.alike and ops.all_run_on("cpu", _LAYER_OPS, rows)

    @property
    def _layers_compiled(self) -> CompiledLayers:
        """`_run_ops` with what comes before and after in one call, with the same bits."""
        from fastsi.engine.compiled_layers import CompiledLayers

        if self._compiled is None:
            self._compiled = CompiledLayers(self._embed, self._layers, self._norm, self._head)
        return self._compiled

    def can_decode(self) -> bool:
        """Whether `decode` can make the steps that follow each other, embedding and draws too."""
        row = self._norm.own.new_empty(0, dtype=self.dtype)
        draws = self._in_one_call(row) and ops.all_run_on("cpu", _DRAW_OPS, row)
        return draws and self._layers_compiled.looks_up

    def decode(
        self, ids: torch.Tensor, positions: torch.Tensor, context: StepContext, run: DecodeRun
    ) -> None:
        """Several steps of the same decoding rows, with the bits of one after the other.

        Args:
            ids: int64 [R], moved on, as all that follows.
            positions: int64 [R].
            context: slots and plan of the first step; each row's own segment comes last and has
                pages for all of them.
            run: how tokens are drawn and where; gets the results.
        """
        tables = self._rotary_tables_for(positions, ahead=run.most - 1)
        run.make_room(self._head.out_features)
        shape = len(ids), self._head.out_features
        logits = buffer(self._buffers, "logits", shape, self.dtype, ids.device)
        held = self._buffers
        self._layers_compiled.decode(ids, positions, tables, context, held, logits, run)

    def _rotary_tables_for(
        self, positions: torch.Tensor, *, ahead: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [P, rotary] of P positions, these and ``ahead`` more among them.

        Made by the model's own module.

        On a GPU for every position at once: asking for the largest would wait for the device.
        """
        if positions.is_cuda:
            if self._tables is None:
                self._tables = self._rotary_tables(self._longest)
                self.version += 1
        elif self._tables is None or positions.numpy().max() + ahead >= len(self._tables[0]):
            # Not past the longest sequence: some RoPE variants change there.
            last = int(positions.max()) + ahead
            count = min(max(_FIRST_POSITIONS, 2 * last), max(self._longest, last + 1))
            self._tables = self._rotary_tables(count)
        return self._tables

    def _rotary_tables(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        like = self._norm.own  # tables are as exact as the model itself makes them
        positions = torch.arange(count, device=like.device)[None]
        cos, sin = self._rotary(like.new_empty(1, 1, 1), positions)
        return cos[0].to(self.dtype).contiguous(), sin[0].to(self.dtype).contiguous()


def _attend(
    layer: Layer,
    number: int,
    qkv: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    context: StepContext,
) -> torch.Tensor:
    """Attention output [R, q_heads * head_dim] for projections of one layer."""
    shape, call = layer.call.shape, layer.call
    heads = qkv.view(len(qkv), -1, shape.head_dim)
    q_heads = heads.shape[1] - 2 * shape.kv_heads
    q, k, v = heads.split_with_sizes([q_heads, shape.kv_heads, shape.kv_heads], dim=1)
    k_scale, v_scale = context.scales(number)
    ops.rope_kv_write(
        q,
        k,
        v,
        *tables,
        context.k[number],
        context.v[number],
        context.slots,
        q_norm=None if layer.q_norm is None else layer.q_norm.weight,
        k_norm=None if layer.k_norm is None else layer.k_norm.weight,
        eps=0.0 if layer.q_norm is None else layer.q_norm.eps,
        k_scale=k_scale,
        v_scale=v_scale,
    )
    out, _ = ops.segment_attention(
        q,
        context.k[number],
        context.v[number],
        context.plan,
        scale=call.scale,
        softcap=call.softcap,
        window=call.window,
        k_scale=k_scale,
        v_scale=v_scale,
    )
    return out.reshape(len(qkv), q_heads * shape.head_dim)


def _parts(model: PreTrainedModel) -> tuple[dict[str, nn.Module], nn.Module]:
    """The decoder's children by name, and the head."""
    children = dict(model.named_children())
    decoder = children.pop(model.base_model_prefix, None)
    if decoder is None or set(children) != {"lm_head"}:
        raise NotFused(f"the model is made of {', '.join(sorted(children)) or 'one module'}")
    parts = dict(decoder.named_children())
    _same_names("decoder", parts, _DECODER)
    return parts, children["lm_head"]


@dataclass(frozen=True, slots=True)
class _Packing:
    """How products are made."""

    mode: str
    deterministic: bool

    def of(self, layers: Sequence[nn.Module], *, pair: bool = False) -> PackedLayers:
        return PackedLayers(layers, self.mode, pair=pair, deterministic=self.deterministic)

    def linear(self, module: nn.Module, name: str) -> nn.Linear:
        """``module``, if its product can be made so."""
        reason = packed_layers.refusal(module, self.mode)
        if reason is not None:
            raise NotFused(f"{name}: {reason}")
        if not isinstance(module, nn.Linear):
            raise NotFused(f"{name}: {type(module).__name__} is no nn.Linear")
        return module


def _layer(module: nn.Module, call: LayerCall, packing: _Packing, name: str) -> Layer:
    parts = dict(module.named_children())
    _same_names(name, parts, _LAYER)
    attention = dict(parts["self_attn"].named_children())
    norms = _HEAD_NORMS if set(attention) >= _HEAD_NORMS else set()
    _same_names(f"{name}.self_attn", attention, _ATTENTION | norms)
    mlp = dict(parts["mlp"].named_children())
    _same_names(f"{name}.mlp", mlp, set(MLP_PARTS))
    linears = {
        key: packing.linear(layer, f"{name}.{key}")
        for key, layer in (attention | mlp).items()
        if key.endswith("_proj")
    }
    q_norm, k_norm = (
        _norm(attention[key], f"{name}.{key}") if norms else None for key in ("q_norm", "k_norm")
    )
    if q_norm is not None and k_norm is not None and q_norm.eps != k_norm.eps:
        raise NotFused(f"{name}: norms of queries and keys differ in eps")
    queries = linears["q_proj"].out_features
    keys = call.shape.kv_heads * call.shape.head_dim
    if [linears[key].out_features for key in ("k_proj", "v_proj")] != [keys, keys] or (
        queries % call.shape.head_dim
    ):
        raise NotFused(f"{name}: projections do not match the heads")
    return Layer(
        before=_norm(parts["input_layernorm"], f"{name}.input_layernorm"),
        qkv=packing.of([linears[key] for key in ("q_proj", "k_proj", "v_proj")]),
        q_norm=q_norm,
        k_norm=k_norm,
        output=packing.of([linears["o_proj"]]),
        between=_norm(parts["post_attention_layernorm"], f"{name}.post_attention_layernorm"),
        gate_up=packing.of([linears["gate_proj"], linears["up_proj"]], pair=True),
        activation=_activation(mlp["act_fn"], f"{name}.mlp.act_fn"),
        down=packing.of([linears["down_proj"]]),
        call=call,
    )


def _same_names(where: str, found: dict[str, nn.Module], wanted: set[str]) -> None:
    extra, missing = sorted(set(found) - wanted), sorted(wanted - set(found))
    if extra or missing:
        parts = [f"has {', '.join(extra)}"] if extra else []
        parts += [f"lacks {', '.join(missing)}"] if missing else []
        raise NotFused(f"{where} {' and '.join(parts)}")


def _norm(module: nn.Module, name: str) -> Norm:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    names = [key for key, _ in module.named_parameters()]
    if not isinstance(eps, float) or names != ["weight"]:
        raise NotFused(f"{name}: {type(module).__name__} is no RMSNorm")
    return Norm(module, eps)


def _activation(function: Any, name: str) -> str:
    found = activation_of(function)
    if found is None:
        raise NotFused(f"{name}: {type(function).__name__} is no known activation")
    return found
