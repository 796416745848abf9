"""Finds the paths whose new token ends their text: at a stop string, or at a completed answer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from fastsi import ops
from fastsi.engine.detokenizer import Detokenizer
from fastsi.engine.requests import PathParams, PathState
from fastsi.engine.rows import Int, RowTable

ANSWER = "answer"
"""``stop_reason`` of a path that stopped at its answer."""


TextRules = tuple[tuple[str, ...], bool, bool]
"""Stop strings, stop at an answer, leave special tokens out of the text."""


def _text_rules(params: PathParams) -> TextRules:
    return params.params.stop, params.params.stop_at_answer, params.params.skip_special_tokens


class StopFinder:
    """Feeds new tokens to `ops.match_stop`; decodes only the rows that it points at.

    The op works on bytes of tokens and may point at a row too much, never too late: what is found
    is what the tokenizer's own decoding of the whole path shows.
    """

    def __init__(self, detokenizer: Detokenizer, capacity: int) -> None:
        self._text, self._capacity = detokenizer, capacity
        self._classes: dict[TextRules, int] = {}
        self._rules: ops.StopRules | None = None
        self._state: ops.StopState | None = None

    def begin(self, table: RowTable, params: Iterable[PathParams]) -> None:
        """Prepare a call of the engine whose paths have these settings."""
        table.added.clear()
        kinds = [kind for kind in dict.fromkeys(map(_text_rules, params)) if kind[0] or kind[1]]
        self._classes = {kind: number for number, kind in enumerate(kinds)}
        self._rules = self._state = None
        if kinds:
            self._rules = ops.StopRules.make(kinds)
            self._state = ops.StopState.make(self._capacity, self._rules.width)

    def find(self, table: RowTable, slots: Int, tokens: Int) -> dict[int, tuple[str, int]]:
        """Texts that end with the new tokens.

        Args:
            table: the slots, before the new tokens are recorded.
            slots: int64 [D], those that drew a token.
            tokens: int64 [D].

        Returns:
            By slot the stop string, or `ANSWER`, and where the text then ends, characters.
        """
        added, table.added = table.added, []
        if self._rules is None or self._state is None:
            return {}
        self._start(self._state, table, added)
        ends: dict[int, tuple[str, int]] = {}
        hits = ops.match_stop(
            torch.from_numpy(tokens),
            torch.from_numpy(slots),
            self._text.table,
            self._rules,
            self._state,
        )
        for row in np.flatnonzero(hits.numpy()):
            found = self._confirm(table, int(slots[row]), int(tokens[row]))
            if found is not None:
                ends[int(slots[row])] = found
        return ends

    def _start(self, state: ops.StopState, table: RowTable, added: list[int]) -> None:
        """Set up slots that were given to a path since the last step."""
        if not added:
            return
        paths = [table.paths[slot] for slot in added]
        kinds = [None if path is None else _text_rules(path.params) for path in paths]
        rules = [-1 if kind is None else self._classes.get(kind, -1) for kind in kinds]
        at = torch.tensor(added)
        state.rule[at] = torch.tensor(rules, dtype=torch.int32)
        state.length[at], state.thinking[at] = 0, 0
        for slot, rule, kind in zip(added, rules, kinds, strict=True):
            count = int(table.num_known[slot])
            if count and kind is not None and rule >= 0:  # resumed after a preemption
                known = table.tokens[slot, :count].tolist()
                state.begin(slot, rule, self._text.table.spell(known, skip_special=kind[2]))

    def _confirm(self, table: RowTable, slot: int, token: int) -> tuple[str, int] | None:
        path, count = table.paths[slot], int(table.num_known[slot])
        assert path is not None
        if count + 1 < path.params.params.min_tokens:
            return None
        return text_end(self._text, path, [*table.tokens[slot, :count].tolist(), token])


def text_end(
    detokenizer: Detokenizer, path: PathState, tokens: list[int]
) -> tuple[str, int] | None:
    """What ends the text of ``tokens`` first, and where the text then ends, characters.

    What was complete before ``min_tokens`` tokens does not count.
    """
    params = path.params.params
    skip = params.skip_special_tokens
    text = detokenizer.decode(tokens, skip_special_tokens=skip)
    least = max(0, params.min_tokens - 1)
    begin = len(detokenizer.decode(tokens[:least], skip_special_tokens=skip)) if least else 0
    found = []
    for stop in params.stop:
        at = text.find(stop, max(0, begin - len(stop) + 1))
        if at >= 0:
            found.append((at, stop))
    answer = ops.answer_end(text, begin) if params.stop_at_answer else None
    if answer is not None and not (found and min(found)[0] < answer):
        return ANSWER, answer
    if not found:
        return None
    at, stop = min(found)
    return stop, at + len(stop) * params.include_stop_str_in_output
