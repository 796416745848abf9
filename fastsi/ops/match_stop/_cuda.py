"""CUDA backend of `match_stop`: one launch, nothing read back."""

from __future__ import annotations

import dataclasses

import torch

from fastsi import _ext
from fastsi.ops._launch import on_device
from fastsi.ops._view import view
from fastsi.ops.match_stop._cpu import first_answer
from fastsi.ops.match_stop.state import StopRules, StopState
from fastsi.ops.token_bytes import TokenBytes

__all__ = ["first_answer", "match_stop"]


def match_stop(
    tokens: torch.Tensor,
    slots: torch.Tensor,
    table: TokenBytes,
    rules: StopRules,
    state: StopState,
) -> torch.Tensor:
    """See `fastsi.ops.match_stop`."""
    core, reason = _ext.load("_C_cuda")
    if core is None:
        raise ImportError(reason)
    tokens, slots = tokens.contiguous(), slots.contiguous()
    hit = torch.empty(len(tokens), dtype=torch.uint8, device=tokens.device)
    width = state.tail.shape[1] + table.longest
    scratch = torch.empty((len(tokens), width), dtype=torch.uint8, device=tokens.device)
    with on_device(tokens):
        core.match_stop(
            view(tokens),
            view(slots),
            [view(table.data), view(table.offsets), view(table.flags)],
            [view(getattr(rules, field.name)) for field in dataclasses.fields(rules)],
            [view(getattr(state, field.name)) for field in dataclasses.fields(state)],
            view(scratch),
            view(hit),
            torch.cuda.current_stream(tokens.device).cuda_stream,
        )
    return hit
