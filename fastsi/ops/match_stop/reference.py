"""Definition of `match_stop`: the end of every text, its new bytes, and a look at each of them."""

from __future__ import annotations

import itertools

import torch

from fastsi.ops.match_stop.answers import first_answer
from fastsi.ops.match_stop.state import StopRules, StopState
from fastsi.ops.token_bytes import SKIPPED, TokenBytes

__all__ = ["first_answer", "match_stop"]


def match_stop(
    tokens: torch.Tensor,
    slots: torch.Tensor,
    table: TokenBytes,
    rules: StopRules,
    state: StopState,
) -> torch.Tensor:
    """See `fastsi.ops.match_stop`."""
    classes, bounds = rules.class_indptr.tolist(), rules.string_indptr.tolist()
    data = bytes(rules.data.tolist())
    spelled = bytes(table.data.tolist())
    strings = [data[begin:end] for begin, end in itertools.pairwise(bounds)]
    hits = []
    for token, slot in zip(tokens.tolist(), slots.tolist(), strict=True):
        rule = int(state.rule[slot])
        if rule < 0 or token >= table.size:
            hits.append(False)
            continue
        had = int(state.length[slot])
        text = bytes(state.tail[slot, :had].tolist())
        if rules.special[rule] or not table.flags[token] & SKIPPED:
            text += spelled[table.offsets[token] : table.offsets[token + 1]]
        hit = any(
            text.find(stop, max(0, had + 1 - len(stop))) >= 0
            for stop in strings[classes[rule] : classes[rule + 1]]
        )
        if rules.answers[rule]:
            hit |= first_answer(text, had, bool(state.thinking[slot])) >= 0
        hits.append(hit)
        state.begin(slot, rule, text, bool(state.thinking[slot]))
    return torch.tensor(hits, dtype=torch.uint8)
