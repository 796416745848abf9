"""New weights for a live model, and noticing that a trainer has changed them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from fastsi.engine.released import is_released
from fastsi.errors import ModelError

_WRAPPERS = (
    "_checkpoint_wrapped_module.",
    "_fsdp_wrapped_module.",
    "_orig_mod.",
    "base_model.model.",
    "modules_to_save.default.",
)
_PROBES = 8


class Fingerprint(NamedTuple):
    """What the engine's caches were made from."""

    parameters: tuple[tuple[object, ...], ...]
    """Per parameter, in the order of ``model.parameters()``: storage, version, a few values."""
    adapters: tuple[object, ...]
    """Switches of PEFT's layers."""


def fingerprint(model: PreTrainedModel) -> Fingerprint:
    """Changes when parameters or active adapters do; a few values of each parameter are read.

    In-place updates raise a tensor's version; writes through ``.data`` do not, hence the values.
    """
    sums: list[torch.Tensor] = []
    versions: list[tuple[int, int]] = []
    for parameter in model.parameters():
        if is_released(parameter):  # only `load_weights` changes it, which raises the version
            versions.append((0, parameter._version))
            sums.append(torch.zeros((), dtype=torch.float64, device=parameter.device))
            continue
        versions.append((parameter.data_ptr(), parameter._version))
        flat = parameter.detach().reshape(-1)
        sums.append(flat[:: max(1, len(flat) // _PROBES)].double().sum())
    # PEFT's layers keep their switches in these attributes.
    adapters = tuple(
        (name, module._disable_adapters, str(module._active_adapter), len(module.merged_adapters))
        for name, module in model.named_modules()
        if hasattr(module, "_disable_adapters")
    )
    values = torch.stack(sums).tolist() if sums else []
    stamps = [(*version, value) for version, value in zip(versions, values, strict=True)]
    return Fingerprint(tuple(stamps), adapters)


@torch.no_grad()
def load_weights(
    model: PreTrainedModel,
    weights: Iterable[tuple[str, torch.Tensor]],
    before_write: Callable[[nn.Parameter], None] | None = None,
) -> list[str]:
    """Copy tensors into the model's parameters, in place.

    Args:
        model: the live model.
        weights: (name, tensor) pairs with Hugging Face names; prefixes of checkpointing, FSDP,
            compile and PEFT wrappers are removed; a part of the parameters is enough.
        before_write: called with each parameter; brings the memory of a released one back.

    Returns:
        Names that were set.

    Raises:
        ModelError: unknown name or wrong shape; parameters before it are already set.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    done: list[str] = []
    for name, tensor in weights:
        plain = name
        for wrapper in _WRAPPERS:
            plain = plain.replace(wrapper, "")
        key = plain if plain in own else plain.replace(".weight", ".base_layer.weight")
        if key not in own:
            near = difflib.get_close_matches(plain, own, n=1, cutoff=0.0)
            raise ModelError(f"weights name {name!r} is no parameter; did you mean {near[0]!r}?")
        if own[key].shape != tensor.shape:
            raise ModelError(
                f"weights {name!r}: shape {list(tensor.shape)}, must be {list(own[key].shape)}"
            )
        if before_write is not None:
            before_write(own[key])
        own[key].copy_(tensor)
        done.append(key)
    return done
