"""Finds the paths whose new token ends their text: at a stop string, or at a completed answer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from fastsi import ops
from fastsi.engine.decode_run import StopSearch
from fastsi.engine.detokenizer import Detokenizer
from fastsi.engine.requests import PathParams, PathState
from fastsi.engine.rows import Int, RowTable
from fastsi.engine.sampler import Drawn
from fastsi.engine.staging import Array, to_device
from fastsi.ops.match_stop.state import end_of

ANSWER = "answer"
"""``stop_reason`` of a path that stopped at its answer."""


TextRules = tuple[tuple[str, ...], bool, bool]
"""Stop strings, stop at an answer, leave special tokens out of the text."""


def _text_rules(params: PathParams) -> TextRules:
    return params.params.stop, params.params.stop_at_answer, params.params.skip_special_tokens


class StopFinder:
    """Feeds new tokens to `ops.match_stop`; decodes only the rows that it points at.

    The op works on bytes of tokens and may point at a row too much, never too late: what is found
    is what the tokenizer's own decoding of the whole path shows. It runs where the tokens are, as
    part of the step that draws them (`match`); where the op has no kernel for that device, on the
    host once the tokens are there (`find`).
    """

    def __init__(self, detokenizer: Detokenizer, capacity: int, device: torch.device) -> None:
        """Set up for ``capacity`` table slots of a model on ``device``."""
        self._text, self._capacity, self._device = detokenizer, capacity, device
        tokens = torch.empty(0, dtype=torch.int64, device=device)
        self.beside_tokens = ops.chosen_backend("match_stop", tokens) != "reference"
        """Whether `match` does the work, on ``device``."""
        self._classes: dict[TextRules, int] = {}
        self._rules: ops.StopRules | None = None
        self._state: ops.StopState | None = None
        self._table: ops.TokenBytes | None = None

    def begin(self, table: RowTable, params: Iterable[PathParams]) -> None:
        """Prepare a call of the engine whose paths have these settings."""
        table.added.clear()
        kinds = [kind for kind in dict.fromkeys(map(_text_rules, params)) if kind[0] or kind[1]]
        self._classes = {kind: number for number, kind in enumerate(kinds)}
        self._rules = self._state = None
        if kinds:
            device = self._device if self.beside_tokens else torch.device("cpu")
            rules = ops.StopRules.make(kinds)
            self._rules = rules.to(device)
            # One slot more, for rows of padding: it has no rule.
            self._state = ops.StopState.make(self._capacity + 1, rules.width, device)
            if self._table is None or self._table.data.device.type != device.type:
                self._table = self._text.table.to(device)

    def match(self, table: RowTable, drawn: Drawn) -> torch.Tensor | None:
        """Launch the search in the texts that get a token now, before the step is taken in.

        Texts that ended without the host's knowledge are searched too; a slot's state is set anew
        for the next path that has it, and launches keep their order.

        Returns:
            uint8 [W] on the device, 1 where a text may end; None: there is nothing to look for, or
            `find` has to look.
        """
        if self._rules is None or not self.beside_tokens:
            return None
        self._start(table)
        return self._search(drawn.token.clamp(min=0), drawn.slots)

    def search(self, table: RowTable, slots: Int) -> StopSearch | None:
        """What `match` does, as part of a `DecodeRun` over ``slots``; None: nothing to look for."""
        if self._rules is None:
            return None
        self._start(table)
        assert self._state is not None
        assert self._table is not None
        hit = torch.empty(len(slots), dtype=torch.uint8)
        return StopSearch(torch.from_numpy(slots), self._table, self._rules, self._state, hit)

    def find(
        self,
        table: RowTable,
        slots: Int,
        tokens: Int,
        hits: npt.NDArray[np.bool_] | None,
    ) -> dict[int, tuple[str, int]]:
        """Texts that end with the new tokens.

        Args:
            table: the slots, before the new tokens are recorded.
            slots: int64 [D], those that drew a token.
            tokens: int64 [D].
            hits: what `match` found.

        Returns:
            By slot the stop string, or `ANSWER`, and where the text then ends, characters.
        """
        if self._rules is None:
            table.added = []
            return {}
        if hits is None and not self.beside_tokens:
            self._start(table)
            hits = self._search(torch.from_numpy(tokens), torch.from_numpy(slots)).numpy()
        ends: dict[int, tuple[str, int]] = {}
        for row in np.flatnonzero(hits) if hits is not None else ():
            found = self._confirm(table, int(slots[row]), int(tokens[row]))
            if found is not None:
                ends[int(slots[row])] = found
        return ends

    def _search(self, tokens: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        assert self._rules is not None
        assert self._state is not None
        assert self._table is not None
        return ops.match_stop(tokens, slots, self._table, self._rules, self._state)

    def _start(self, table: RowTable) -> None:
        """Set up slots that were given to a path since the last time."""
        added, table.added = table.added, []
        if not added:
            return
        state = self._state
        assert state is not None
        paths = [table.paths[slot] for slot in added]
        kinds = [None if path is None else _text_rules(path.params) for path in paths]
        rules = [-1 if kind is None else self._classes.get(kind, -1) for kind in kinds]
        columns: dict[str, Array] = {
            "at": np.asarray(added),
            "rule": np.asarray(rules, dtype=np.int32),
            "length": np.zeros(len(added), dtype=np.int32),
            "thinking": np.zeros(len(added), dtype=np.uint8),
        }
        if any(table.num_known[added]):
            columns["tail"] = np.zeros((len(added), state.tail.shape[1]), dtype=np.uint8)
        for row, (slot, kind) in enumerate(zip(added, kinds, strict=True)):
            if table.num_known[slot] and kind is not None and rules[row] >= 0:
                text = self._text_so_far(table, slot, skip_special=kind[2])
                kept, columns["thinking"][row] = end_of(text, state.tail.shape[1])
                columns["length"][row] = len(kept)
                columns["tail"][row, : len(kept)] = np.frombuffer(kept, dtype=np.uint8)
        sent = to_device(columns, state.rule.device)
        for name in columns.keys() - {"at"}:
            getattr(state, name)[sent["at"]] = sent[name]

    def _text_so_far(self, table: RowTable, slot: int, *, skip_special: bool) -> bytes:
        """Of a path that is resumed after a preemption."""
        known = table.tokens[slot, : table.num_known[slot]].tolist()
        return self._text.table.spell(known, skip_special=skip_special)

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
