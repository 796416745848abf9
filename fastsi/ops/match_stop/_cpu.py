"""C++ backend of `match_stop`."""

from __future__ import annotations

import dataclasses

import torch

from fastsi import _ext
from fastsi.ops._view import view
from fastsi.ops.match_stop.state import StopRules, StopState
from fastsi.ops.token_bytes import TokenBytes

_C = _ext.core()


def match_stop(
    tokens: torch.Tensor,
    slots: torch.Tensor,
    table: TokenBytes,
    rules: StopRules,
    state: StopState,
) -> torch.Tensor:
    """See `fastsi.ops.match_stop`."""
    tokens, slots = tokens.contiguous(), slots.contiguous()
    hit = torch.empty(len(tokens), dtype=torch.uint8)
    _C.match_stop(
        view(tokens),
        view(slots),
        [view(table.data), view(table.offsets), view(table.flags)],
        [view(getattr(rules, field.name)) for field in dataclasses.fields(rules)],
        [view(getattr(state, field.name)) for field in dataclasses.fields(state)],
        view(hit),
    )
    return hit


def first_answer(text: bytes, begin: int = 0, thinking: bool = False) -> int:
    """See `fastsi.ops.match_stop.answers.first_answer`."""
    end: int = _C.first_answer(text, begin, thinking)
    return end
