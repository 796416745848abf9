"""The paths that decode, as arrays: one slot per path, no Python object on the way of a step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastsi.engine.requests import PathParams, PathState

Int = npt.NDArray[np.int64]
_GROW = 64


class RowTable:
    """Slots for up to ``capacity`` decoding paths.

    ``active`` lists the occupied slots in depth-first order of their prompts, then path order.
    Every other array is indexed by slot. ``num_out`` counts the tokens that have been drawn or are
    being drawn on the device, ``num_known`` those of them that the host has read. The token to feed
    next is output token ``num_out - 1``: ``last_token`` where it is known, else only the device has
    it. Its KV slot is computed from ``pages``.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.active: Int = np.empty(0, dtype=np.int64)
        self.paths: list[PathState | None] = [None] * capacity
        self._free = list(range(capacity - 1, -1, -1))
        self.added: list[int] = []
        """Slots given to a path and not yet seen by `StopFinder`."""

        def ints() -> Int:
            return np.zeros(capacity, dtype=np.int64)

        self.tin, self.request, self.index = ints(), ints(), ints()
        self.prompt_len, self.num_out, self.num_known, self.limit = ints(), ints(), ints(), ints()
        self.owner = ints()
        """Counts the paths that have had the slot: tells a path from the one before it."""
        self.last_token, self.key, self.num_pages, self.stop_class = ints(), ints(), ints(), ints()
        self.top_k = np.zeros(capacity, dtype=np.int32)
        self.temperature = np.zeros(capacity, dtype=np.float32)
        self.top_p = np.ones(capacity, dtype=np.float32)
        self.min_p = np.zeros(capacity, dtype=np.float32)
        self.adjusted = np.zeros(capacity, dtype=bool)
        """Rows with penalties or bias, which the host works out for every token."""
        self.top_count = np.full(capacity, -1)
        """Likeliest tokens to report beside each drawn one; -1: not even the rank of that."""
        self.pages = np.zeros((capacity, 8), dtype=np.int32)
        self.tokens = np.zeros((capacity, _GROW), dtype=np.int64)
        self.logprobs = np.zeros((capacity, _GROW), dtype=np.float64)
        self.stop_sets: list[Int] = []
        self._stop_classes: dict[tuple[int, ...], int] = {}

    @property
    def num_free(self) -> int:
        """Slots without a path."""
        return len(self._free)

    def add(self, path: PathState) -> int:
        """Give ``path`` a slot; its known tokens and pages move into the table."""
        slot, p = self._free.pop(), path.params.params
        self.paths[slot] = path
        self.tin[slot], self.request[slot], self.index[slot] = path.key_order
        self.prompt_len[slot] = len(path.group.prompt)
        self.num_out[slot] = self.num_known[slot] = len(path.tokens)
        self.limit[slot], self.key[slot] = path.params.limit, path.key
        self.temperature[slot], self.top_k[slot] = p.temperature, p.top_k
        self.top_p[slot], self.min_p[slot] = p.top_p, p.min_p
        self.stop_class[slot] = self._stop_class(path.params)
        self.adjusted[slot] = path.params.changes_logits
        self.top_count[slot] = -1 if p.logprobs is None else p.logprobs
        self.added.append(slot)
        self.num_pages[slot] = 0
        self._widen(len(path.tokens) + 1, len(path.pages))
        if path.tokens:
            self.tokens[slot, : len(path.tokens)] = path.tokens
            self.logprobs[slot, : len(path.tokens)] = path.logprobs
            self.last_token[slot] = path.tokens[-1]
        self.append_pages(slot, path.pages)
        path.slot = slot
        return slot

    def append_pages(self, slot: int, pages: list[int]) -> None:
        """Add pages to the end of a path."""
        have = int(self.num_pages[slot])
        self._widen(1, have + len(pages))
        self.pages[slot, have : have + len(pages)] = pages
        self.num_pages[slot] = have + len(pages)

    def append_page_each(self, slots: Int, pages: list[int]) -> None:
        """Add one page to the end of each path."""
        have = self.num_pages[slots]
        self._widen(1, int(have.max(initial=0)) + 1)
        self.pages[slots, have] = pages
        self.num_pages[slots] = have + 1

    def remove(self, slot: int) -> tuple[PathState, list[int]]:
        """Free the slot: its path, known tokens and log-probs filled in, and its pages."""
        path = self.paths[slot]
        assert path is not None
        count = int(self.num_known[slot])
        path.tokens = self.tokens[slot, :count].tolist()
        path.logprobs = self.logprobs[slot, :count].tolist()
        self.paths[slot], path.slot = None, -1
        self.owner[slot] += 1
        self._free.append(slot)
        return path, self.pages[slot, : self.num_pages[slot]].tolist()

    def occupied(self) -> Int:
        """Slots that have a path, active or waiting for its last token to be read."""
        return np.flatnonzero([path is not None for path in self.paths])

    def record(self, slots: Int, at: Int, tokens: Int, logprobs: npt.NDArray[np.float64]) -> None:
        """Take in one drawn token per slot, output token ``at`` of its path."""
        self._widen(int(at.max(initial=0)) + 1, 0)
        self.tokens[slots, at] = tokens
        self.logprobs[slots, at] = logprobs
        self.last_token[slots] = tokens
        self.num_known[slots] = at + 1

    def record_run(self, slots: Int, tokens: Int, logprobs: npt.NDArray[np.float64]) -> Int:
        """Take in tokens [N, D] that were drawn one after the other, but for the last of each slot.

        Returns:
            int64 [D]: which output token of its path the last one is.
        """
        at = self.num_out[slots] + np.arange(len(tokens))[:, None]
        self.num_out[slots] += len(tokens)
        before = np.broadcast_to(slots, at.shape)[:-1].ravel()
        self.record(before, at[:-1].ravel(), tokens[:-1].ravel(), logprobs[:-1].ravel())
        last: Int = at[-1]
        return last

    def deactivate(self, slots: Int) -> None:
        """Take slots out of ``active``, order kept."""
        if not len(slots):
            return
        self.active = self.active[~np.isin(self.active, slots)]

    def activate(self, slots: list[int]) -> None:
        """Put slots into ``active`` at their place in depth-first order."""
        if not slots:
            return
        slots_now = np.concatenate([self.active, np.asarray(slots, dtype=np.int64)])
        keys = (self.index[slots_now], self.request[slots_now], self.tin[slots_now])
        self.active = slots_now[np.lexsort(keys)]

    def hit_stop(self, slots: Int, tokens: Int) -> npt.NDArray[np.bool_]:
        """Which slots' new token is one of their stop tokens."""
        classes = self.stop_class[slots]
        hit = np.zeros(len(slots), dtype=bool)
        for number in np.unique(classes):
            ids = self.stop_sets[number]
            if len(ids):
                mine = classes == number
                hit[mine] = np.isin(tokens[mine], ids)
        return hit

    def stop_ids(self, slots: Int) -> tuple[Int, Int]:
        """Stop tokens of each slot, as the offsets [D + 1] and the entries of a CSR list."""
        sets = [self.stop_sets[number] for number in self.stop_class[slots]]
        indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in sets])]).astype(np.int64)
        return indptr, np.concatenate([np.empty(0, dtype=np.int64), *sets])

    def _stop_class(self, params: PathParams) -> int:
        ids = tuple(params.stop_ids.tolist())
        if ids not in self._stop_classes:
            self._stop_classes[ids] = len(self.stop_sets)
            self.stop_sets.append(params.stop_ids)
        return self._stop_classes[ids]

    def _widen(self, tokens: int, pages: int) -> None:
        if tokens > self.tokens.shape[1]:
            extra = max(tokens - self.tokens.shape[1], self.tokens.shape[1])
            self.tokens = np.pad(self.tokens, ((0, 0), (0, extra)))
            self.logprobs = np.pad(self.logprobs, ((0, 0), (0, extra)))
        if pages > self.pages.shape[1]:
            extra = max(pages - self.pages.shape[1], self.pages.shape[1])
            self.pages = np.pad(self.pages, ((0, 0), (0, extra)))
