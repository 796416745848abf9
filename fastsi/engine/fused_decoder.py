"""One forward pass for decoders built like Llama, over packed weights and fused ops.

A layer is norm, attention over rotated heads, residual, norm, gated MLP, residual. Which models are
built so is decided by their modules (`recognise`) and then by numbers: the pass is used only if it
computes, on a few tokens, what the model's own forward computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from fastsi import ops
from fastsi.engine import packed_layers
from fastsi.engine.attention import LayerCall, StepContext
from fastsi.engine.module_swaps import MLP_PARTS, activation_of
from fastsi.engine.packed_layers import PackedLayers, Stamper
from fastsi.ops._memory import aligned

if TYPE_CHECKING:
    from fastsi.engine.compiled_layers import CompiledLayers

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_DECODER = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER_OPS = ("norm_rope_act", "linear", "segment_attention")
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
    def weight(self) -> torch.Tensor:
        """[H], the model's own."""
        found: torch.Tensor = self.module.weight  # type: ignore[assignment]
        return found


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
        self, model: PreTrainedModel, calls: Sequence[LayerCall], mode: str, longest: int
    ) -> None:
        """Take the model apart.

        Args:
            model: live model.
            calls: what each layer asked of attention.
            mode: arithmetic of the products, see `ops.pack_weight`.
            longest: most positions a sequence may have, tokens.

        Raises:
            NotFused: it is built in another way.
        """
        decoder, head = _parts(model)
        self._embed: nn.Module = decoder["embed_tokens"]
        self._rotary: nn.Module = decoder["rotary_emb"]
        self._norm = _norm(decoder["norm"], "norm")
        self._head = PackedLayers([_linear(head, "lm_head")], mode)
        layers = list(decoder["layers"].children())
        if len(layers) != len(calls):
            raise NotFused(f"{len(layers)} layers, of which {len(calls)} attend")
        self._layers = [
            _layer(module, call, mode, f"layers.{number}")
            for number, (module, call) in enumerate(zip(layers, calls, strict=True))
        ]
        self._longest = longest
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None
        self._buffers: dict[str, torch.Tensor] = {}
        sizes = {
            (one.qkv.out_features, one.gate_up.out_features, one.call.shape) for one in self._layers
        }
        self._alike = len(sizes) == 1
        self._compiled: CompiledLayers | None = None

    @property
    def products(self) -> list[PackedLayers]:
        """Every packed product."""
        found = [self._head]
        for layer in self._layers:
            found += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return found

    def refresh(self, stamp: Stamper) -> None:
        """Pack what has changed; tables of positions are made anew."""
        self._compiled = None  # first, since it holds on to what is packed
        for product in self.products:
            product.refresh(stamp)
        self._tables = None

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        context: StepContext,
        keep: torch.Tensor,
        *,
        plain: bool = False,
    ) -> torch.Tensor:
        """Logits [L, vocab] of some rows, valid until the next call.

        Args:
            ids: int64 [R].
            positions: int64 [R].
            context: caches, slots and plan of the step.
            keep: int64 [L], rows whose logits are wanted.
            plain: let the model's own layers make the products, in place of the packed copies.
        """
        run: _Run = PackedLayers.plain if plain else PackedLayers.__call__
        tables = self._rotations(positions)
        hidden = self._embed(ids)
        if not plain and self._in_one_call(hidden):
            self._run_compiled(hidden, tables, context)
        else:
            self._run_ops(hidden, tables, context, run)
        kept = hidden[keep]
        ops.rms_norm(kept, self._norm.weight, self._norm.eps, out=kept)
        return run(self._head, kept, out=self._buffer("logits", len(kept), self._head.out_features))

    def _run_ops(
        self,
        hidden: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
        context: StepContext,
        run: _Run,
    ) -> None:
        """The layers, op by op and in place: what every backend can do, and the definition."""
        rows, width = hidden.shape
        normed = self._buffer("normed", rows, width)
        for number, layer in enumerate(self._layers):
            ops.rms_norm(hidden, layer.before.weight, layer.before.eps, out=normed)
            qkv = self._buffer("qkv", rows, layer.qkv.out_features)
            attended = _attend(layer, number, run(layer.qkv, normed, out=qkv), tables, context)
            run(layer.output, attended, residual=hidden, out=hidden)
            ops.rms_norm(hidden, layer.between.weight, layer.between.eps, out=normed)
            gated = self._buffer("gated", rows, layer.gate_up.out_features)
            run(layer.gate_up, normed, activation=layer.activation, out=gated)
            run(layer.down, gated, residual=hidden, out=hidden)

    def _in_one_call(self, hidden: torch.Tensor) -> bool:
        """Whether the layers share their scratch memory and every op would run on the extension."""
        return self._alike and all(ops.chosen_backend(op, hidden) == "cpu" for op in _LAYER_OPS)

    def _run_compiled(
        self,
        hidden: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
        context: StepContext,
    ) -> None:
        """`_run_ops` in one call of the extension, with the same bits."""
        if self._compiled is None:
            from fastsi.engine.compiled_layers import CompiledLayers

            self._compiled = CompiledLayers(self._layers)
        layer, (rows, width) = self._layers[0], hidden.shape
        kv_heads, head_dim = layer.call.shape
        queries = layer.qkv.out_features - 2 * kv_heads * head_dim
        columns = {
            "normed": width,
            "qkv": layer.qkv.out_features,
            "attended": queries,
            "lse": queries // head_dim,
            "gated": layer.gate_up.out_features,
        }
        scratch = [self._buffer(name, rows, count) for name, count in columns.items()]
        self._compiled.forward(hidden, tables, context, scratch)

    def _buffer(self, name: str, rows: int, columns: int) -> torch.Tensor:
        """Memory kept from step to step: fresh pages for 50 MB of logits take milliseconds."""
        held = self._buffers.get(name)
        if held is None or held.shape[0] < rows or held.shape[1] != columns:
            memory = aligned(rows * columns * torch.float32.itemsize)
            held = self._buffers[name] = memory.view(torch.float32).view(rows, columns)
        return held[:rows]

    def _rotations(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [R, rotary] of the rows, from tables made by the model's own module."""
        last = int(positions.max())
        if self._tables is None or last >= len(self._tables[0]):
            # Not past the longest sequence: some RoPE variants change there.
            count = min(max(_FIRST_POSITIONS, 2 * last), max(self._longest, last + 1))
            cos, sin = self._rotary(torch.empty(1, 1, 1), torch.arange(count)[None])
            self._tables = cos[0].contiguous(), sin[0].contiguous()
        cos, sin = self._tables
        return cos[positions], sin[positions]


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
    )
    out, _ = ops.segment_attention(
        q,
        context.k[number],
        context.v[number],
        context.plan,
        scale=call.scale,
        softcap=call.softcap,
        window=call.window,
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


def _layer(module: nn.Module, call: LayerCall, mode: str, name: str) -> Layer:
    parts = dict(module.named_children())
    _same_names(name, parts, _LAYER)
    attention = dict(parts["self_attn"].named_children())
    norms = _HEAD_NORMS if set(attention) >= _HEAD_NORMS else set()
    _same_names(f"{name}.self_attn", attention, _ATTENTION | norms)
    mlp = dict(parts["mlp"].named_children())
    _same_names(f"{name}.mlp", mlp, set(MLP_PARTS))
    linears = {
        key: _linear(layer, f"{name}.{key}")
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
        qkv=PackedLayers([linears[key] for key in ("q_proj", "k_proj", "v_proj")], mode),
        q_norm=q_norm,
        k_norm=k_norm,
        output=PackedLayers([linears["o_proj"]], mode),
        between=_norm(parts["post_attention_layernorm"], f"{name}.post_attention_layernorm"),
        gate_up=PackedLayers([linears["gate_proj"], linears["up_proj"]], mode, pair=True),
        activation=_activation(mlp["act_fn"], f"{name}.mlp.act_fn"),
        down=PackedLayers([linears["down_proj"]], mode),
        call=call,
    )


def _same_names(where: str, found: dict[str, nn.Module], wanted: set[str]) -> None:
    extra, missing = sorted(set(found) - wanted), sorted(wanted - set(found))
    if extra or missing:
        parts = [f"has {', '.join(extra)}"] if extra else []
        parts += [f"lacks {', '.join(missing)}"] if missing else []
        raise NotFused(f"{where} {' and '.join(parts)}")


def _linear(module: nn.Module, name: str) -> nn.Linear:
    reason = packed_layers.refusal(module)
    if reason is not None:
        raise NotFused(f"{name}: {reason}")
    if not isinstance(module, nn.Linear):
        raise NotFused(f"{name}: {type(module).__name__} is no nn.Linear")
    return module


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


def untouched(model: nn.Module) -> str | None:
    """Why calls of the modules may not be left out, or None: nobody hooks into them."""
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has forward hooks"
        if "forward" in vars(module):
            return f"the forward of {name or 'the model'} has been replaced"
    return None
