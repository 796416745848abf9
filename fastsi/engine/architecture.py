"""Which models the engine can run; what it cannot is refused by name before any work."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fastsi.engine.attention import LayerCall, ProbeContext, engine_attention
from fastsi.errors import ModelError

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_LENGTH_DEPENDENT_ROPE = {"dynamic"}


def inspect(model: PreTrainedModel) -> list[LayerCall]:
    """Check every feature and run two tokens through the layers; returns what each asked for.

    Raises:
        ModelError: the model uses something the engine cannot run, or does not run by itself; the
            message says what.
    """
    _check_config(model)
    probe = ProbeContext()
    tokens = torch.zeros((1, 2), dtype=torch.int64, device=model.device)
    positions = torch.arange(2, device=model.device)[None]
    with engine_attention(model), torch.no_grad():
        try:
            model(
                input_ids=tokens,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=torch.tensor([1], device=model.device),
                fastsi_step=probe,
            )
        except TypeError as error:
            raise ModelError(f"{_name(model)}: its forward pass takes no step ({error})") from error
        except RuntimeError as error:  # layers of different dtypes, say
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ModelError(
                f"{_name(model)}: its own forward pass fails on two tokens: {why}"
            ) from error
    layers: int = text_config(model.config).num_hidden_layers
    if sorted(probe.layers) != list(range(layers)):
        raise ModelError(
            f"{_name(model)}: {len(probe.layers)} of {layers} layers use plain attention; others "
            f"(state-space, linear or fused attention) cannot run"
        )
    return [probe.layers[layer] for layer in range(layers)]


def context_length(config: PreTrainedConfig) -> int:
    """Longest sequence the model's positions cover, tokens."""
    text = text_config(config)
    longest: int | None = getattr(text, "max_position_embeddings", None)
    if longest is None:
        raise ModelError("the config has no max_position_embeddings: its context is unknown")
    for rope in _rope_tables(text):
        if rope.get("rope_type") == "longrope":
            # Past the original length longrope rescales every position, also those cached already.
            own: int = getattr(text, "original_max_position_embeddings", longest)
            longest = min(longest, rope.get("original_max_position_embeddings") or own)
    return longest


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a config that describes the language model."""
    text: PreTrainedConfig = config.get_text_config(decoder=True)
    return text


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, ...]:
    """The tokens that end a sequence, by the model's settings and the tokenizer's."""
    found: list[int] = []
    generation = getattr(model, "generation_config", None)
    for source in (generation, model.config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            found += [ids] if isinstance(ids, int) else list(ids)
    return tuple(dict.fromkeys(found))


def _check_config(model: PreTrainedModel) -> None:
    config = text_config(model.config)
    if model.config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        raise ModelError(f"{_name(model)}: encoder-decoder models and cross-attention cannot run")
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelError(
            f"{_name(model)}: this architecture does not take attention from transformers' "
            f"attention interface (state-space and ALiBi models among them), so it cannot run"
        )
    strange = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if strange:
        names = ", ".join(sorted(strange))
        raise ModelError(f"{_name(model)}: layers of type {names} cannot run")
    if getattr(config, "num_kv_shared_layers", 0):
        raise ModelError(f"{_name(model)}: layers that share keys and values cannot run")
    if getattr(config, "use_bidirectional_attention", None) or not getattr(
        config, "is_causal", True
    ):
        raise ModelError(f"{_name(model)}: bidirectional attention cannot run")
    for rope in _rope_tables(config):
        if rope.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
            raise ModelError(
                f"{_name(model)}: dynamic RoPE (frequencies that depend on the batch's longest "
                f"sequence) cannot run"
            )


def _rope_tables(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """RoPE settings; some configs have one table per layer type."""
    table = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in table:
        return [table]
    return [value for value in table.values() if isinstance(value, dict)]


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__


def hooked(model: nn.Module) -> str | None:
    """Why calls of the modules may not be left out, or None: nobody hooks into them."""
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has forward hooks"
        if "forward" in vars(module):
            return f"the forward of {name or 'the model'} has been replaced"
    return None
