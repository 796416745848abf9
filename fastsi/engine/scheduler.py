"""Which rows run in a step: continuous batching, chunked prefill, admission by pages, preemption.

Groups are served in the depth-first order of the prefix tree. When pages run out the last path in
that order gives up its pages and is computed again later; the first path is never taken from, so
every call ends. Random streams are counted by position, so a path that was preempted continues with
the tokens it would have drawn anyway.

A group with a controller starts its paths in waves: those it wants now go before the next group,
the others are held back, and the rows go to other groups. Only when no group waits and fewer than
``busy_rows`` paths decode, held paths start on a chance: such a row costs little, and a path that
the controller asks for later has then begun already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from fastsi.engine.config import EngineConfig
from fastsi.engine.kv_pool import KVPool
from fastsi.engine.plan import Chunk, NodeTable, Step, build_step
from fastsi.engine.prefix_tree import PrefixTree
from fastsi.engine.requests import Group, PathState
from fastsi.engine.rows import Int, RowTable
from fastsi.engine.stats import EngineStats
from fastsi.errors import CacheFull

TextEnds = Mapping[int, tuple[str, int]]
"""Table slot: the stop string found, and where the text ends, characters."""


class Scheduler:
    """Owns the queue of groups and the pages of paths; holds no model and no tensor."""

    def __init__(
        self,
        config: EngineConfig,
        pool: KVPool,
        tree: PrefixTree,
        stats: EngineStats,
    ) -> None:
        self._config, self._pool, self._tree, self._stats = config, pool, tree, stats
        self.table = RowTable(config.max_batch_rows)
        self._waiting: deque[Group] = deque()
        self._admitted: list[Group] = []
        self._nodes: NodeTable | None = None
        """Locked nodes; None when locks or what is filled have changed."""

    @property
    def has_work(self) -> bool:
        """Whether a path is left to run."""
        return bool(self._waiting or self._admitted)

    def add(self, groups: Iterable[Group]) -> None:
        """Queue groups, in depth-first order.

        Raises:
            CacheFull: a path of a group cannot fit the cache even alone.
        """
        ordered = sorted(groups, key=lambda group: group.leaf.tin)
        size = self._config.page_size
        for group in ordered:
            prompt = sum(-(-len(node.tokens) // size) for node in group.leaf.chain())
            longest = max(max(path.params.limit, len(path.tokens)) for path in group.pending)
            need = prompt + -(-longest // size)
            if need > self._pool.num_pages:
                raise CacheFull(
                    f"a prompt of {len(group.prompt)} tokens with {longest} new ones needs {need} "
                    f"pages of {size} tokens, the KV cache has {self._pool.num_pages}; raise "
                    f"kv_cache_tokens or lower max_tokens"
                )
        self._waiting.extend(ordered)

    def can_run_ahead(self) -> bool:
        """Whether the next step can be chosen before the tokens of the last one are known.

        Not where a path would lose its pages: it may have ended, or others may have.
        """
        short = len(self._short())
        return len(self.table.active) > 0 and short <= self._available(short)

    def schedule(self) -> Step:
        """Choose the rows of the next step and give them pages.

        Raises:
            CacheFull: not even one path can go on.
        """
        self._grow_decoding()
        chunks: list[Chunk] = []
        planned: dict[int, Chunk] = {}
        budget = self._config.max_step_tokens - len(self.table.active)
        if not self._waiting:
            self._release_held()
        for group in self._admitted:
            if budget <= 0:
                break
            budget = self._advance(group, chunks, planned, budget)
        while self._waiting and budget > 0 and self._admit(self._waiting[0]):
            group = self._waiting.popleft()
            self._admitted.append(group)
            budget = self._advance(group, chunks, planned, budget)
        if not chunks and not len(self.table.active):
            raise CacheFull(
                f"{len(self._admitted) + len(self._waiting)} prompts wait and none can go on with "
                f"{self._pool.num_free} free pages of {self._pool.num_pages}"
            )
        if self._nodes is None:
            self._nodes = NodeTable(self._tree.locked_nodes())
        return build_step(
            self.table,
            chunks,
            self._nodes,
            page_size=self._config.page_size,
            sharing=self._config.sharing,
        )

    # Pages

    def _available(self, wanted: int) -> int:
        """Pages that are free or can be made free; counted exactly only when ``wanted`` is more."""
        free = self._pool.num_free
        return free if free >= wanted else free + self._tree.num_evictable()

    def _take(self, count: int) -> list[int]:
        self._tree.evict(count)
        return self._pool.allocate(count)

    def _spare(self, wanted: int) -> bool:
        """Whether new work may take ``wanted`` pages: one stays in hand for every decoding path."""
        in_hand = len(self.table.active) + sum(len(g.resuming) for g in self._admitted)
        return self._available(wanted + in_hand) >= wanted + in_hand

    def _short(self) -> Int:
        """Decoding paths whose next token needs another page."""
        table, slots = self.table, self.table.active
        return slots[(table.num_out[slots] - 1) // self._config.page_size >= table.num_pages[slots]]

    def _grow_decoding(self) -> None:
        """Give every decoding path the page its next token needs, preempting the last ones."""
        short = self._short()
        while len(short) > self._available(len(short)):
            self._preempt_last()
            short = self._short()
        self.table.append_page_each(short, self._take(len(short)))

    def _preempt_last(self) -> None:
        """Take the pages of the last path in order, or the prompt of the last group."""
        group = self._admitted[-1]
        if group.resuming:
            path = group.resuming.pop()
            self._pool.release(path.pages)
            path.pages, path.filled = [], 0
            if path.forced:  # scored again from its first token
                path.logprobs, path.top = [], []
        elif group.running:
            slot = int(self.table.active[-1])
            self.table.deactivate(np.asarray([slot]))
            path, pages = self.table.remove(slot)
            self._pool.release(pages)
            group.running -= 1
            self._stats.preemptions += 1
        else:
            self._admitted.pop()
            self._release(group)
            self._waiting.appendleft(group)
            return
        group.pending.appendleft(path)

    # Groups

    def _admit(self, group: Group) -> bool:
        """Lock the prompt and give it pages, if that leaves the decoding paths room to go on."""
        if self.table.num_free == 0 and not group.pending[0].forced:
            return False
        self._tree.lock(group.leaf)
        missing = self._tree.pages_missing(group.leaf)
        alone = not self._admitted
        if not (alone or self._spare(missing + 1)) or self._available(missing) < missing:
            self._tree.unlock(group.leaf)
            return False
        self._tree.evict(missing)
        self._tree.allocate(group.leaf)
        self._nodes, group.admitted = None, True
        return True

    def _release(self, group: Group) -> None:
        self._tree.unlock(group.leaf)
        self._nodes, group.admitted = None, False

    def _advance(
        self, group: Group, chunks: list[Chunk], planned: dict[int, Chunk], budget: int
    ) -> int:
        """Add prefill work of ``group``; returns what is left of the budget, tokens."""
        if not group.num_ready and not group.resuming:
            return budget
        for node in group.leaf.chain():
            chunk = planned.get(id(node))
            done = node.filled + (len(chunk.tokens) if chunk else 0)
            if done == len(node.tokens):
                continue
            if chunk is not None or budget <= 0:
                return budget  # an earlier group has put all it could into this step
            end = min(len(node.tokens), done + budget)
            chunk = Chunk(
                group=group,
                tokens=node.tokens[done:end],
                start=node.start + done,
                slots=node.slots(done, end, self._config.page_size),
                node=node,
            )
            planned[id(node)] = chunk
            chunks.append(chunk)
            budget -= end - done
            if end < len(node.tokens):
                return budget
        budget = self._start(group, chunks, planned.get(id(group.leaf)), budget)
        for path in group.resuming:
            if budget <= 0:
                break
            budget = self._resume(path, chunks, budget)
        return budget

    def _start(self, group: Group, chunks: list[Chunk], last: Chunk | None, budget: int) -> int:
        """Start pending paths: from the logits of the prompt's last token, or by recomputation."""
        fresh: list[PathState] = []
        while group.num_ready and (last is not None or budget > 0):
            path = group.pending[0]
            pages = -(-path.num_inputs // self._config.page_size)
            if not self._may_start(path, pages, len(fresh)):
                break
            group.pending.popleft()
            if pages:
                path.pages = self._take(pages)
                group.resuming.append(path)
            if path.forced or not path.tokens:
                fresh.append(path)
        if not fresh:
            return budget
        if last is None:
            last = self._last_token_again(group)
            chunks.append(last)
            budget -= 1
        # Groups of one prompt with a controller each may share the prompt's last chunk.
        last.scores += [path for path in fresh if path.forced]
        draws = [self.table.add(path) for path in fresh if not path.forced]
        last.draws += draws
        group.running += len(draws)
        return budget

    def _release_held(self) -> None:
        """Let held paths start where rows would be idle, evenly over the groups."""
        held = [group for group in self._admitted if len(group.pending) > group.num_ready]
        if not held:
            return
        coming = sum(group.num_ready + len(group.resuming) for group in self._admitted)
        room = min(self._config.busy_rows, self.table.capacity) - len(self.table.active) - coming
        for at, group in enumerate(held):
            share = -(-room // (len(held) - at))
            if share <= 0:
                break
            ready = min(len(group.pending), group.num_ready + share)
            room -= ready - group.num_ready
            group.wanted = group.pending[0].index + ready

    def _may_start(self, path: PathState, pages: int, fresh: int) -> bool:
        """Whether there is a slot and room for one more path, ``fresh`` being started just now."""
        resuming = [p for group in self._admitted for p in group.resuming]
        kept = fresh + sum(not p.forced for p in resuming)
        if not path.forced and self.table.num_free <= kept:
            return False
        if fresh or resuming or len(self.table.active):
            return self._spare(pages + 1 + fresh)
        return self._available(pages) >= pages

    def _last_token_again(self, group: Group) -> Chunk:
        end = len(group.prompt)
        tokens = np.asarray(group.prompt[end - 1 :], dtype=np.int64)
        return Chunk(group=group, tokens=tokens, start=end - 1, slots=np.asarray([-1]))

    def _resume(self, path: PathState, chunks: list[Chunk], budget: int) -> int:
        """Prefill known tokens of a path; the last of them give the logits to go on from."""
        begin, size = path.filled, self._config.page_size
        end = min(path.num_inputs, begin + budget)
        offsets, pages = np.arange(begin, end), np.asarray(path.pages, dtype=np.int64)
        chunk = Chunk(
            group=path.group,
            tokens=np.asarray(path.tokens[begin:end], dtype=np.int64),
            start=len(path.group.prompt) + begin,
            slots=pages[offsets // size] * size + offsets % size,
            path=path,
        )
        chunks.append(chunk)
        if end == path.num_inputs and not path.forced:
            chunk.draws = [self.table.add(path)]
        return budget - (end - begin)

    # After the forward pass

    def advance(self, step: Step) -> list[PathState]:
        """Take in what is known of a step once it has been launched: all but its tokens.

        Paths at their length limit stop here; every other path is taken to go on.

        Returns:
            Given continuations that are scored to the end.
        """
        done = self._commit_chunks(step)
        table, slots = self.table, step.draw_slots
        table.num_out[slots] += 1
        full = table.num_out[slots] >= table.limit[slots]
        new = {slot for chunk in step.chunks for slot in chunk.draws}
        table.deactivate(slots[full])
        table.activate([slot for slot in slots[~full].tolist() if slot in new] if new else [])
        self._retire(done)
        return done

    def commit(
        self,
        slots: Int,
        at: Int,
        tokens: Int,
        logprobs: npt.NDArray[np.float64],
        ends: TextEnds,
    ) -> list[PathState]:
        """Record the tokens of a step, which may have been launched before the last one.

        Args:
            slots: int64 [D], table slots of paths that are still there.
            at: int64 [D], which output token of its path each one is.
            tokens: int64 [D].
            logprobs: their log-probs as reported to the caller, nats.
            ends: table slots whose text now holds a stop string.

        Returns:
            The paths that ended.
        """
        table = self.table
        table.record(slots, at, tokens, logprobs)
        stopped = table.hit_stop(slots, tokens)
        over = stopped | (at + 1 >= table.limit[slots])
        if ends:
            over |= np.isin(slots, list(ends))
        ended = [
            self._finish(int(slot), int(token), bool(stop), ends)
            for slot, token, stop in zip(slots[over], tokens[over], stopped[over], strict=True)
        ]
        table.deactivate(slots[over])
        self._retire(ended)
        return ended

    def _retire(self, ended: list[PathState]) -> None:
        """Unlock the prompts of groups that have no path left."""
        for group in {id(path.group): path.group for path in ended}.values():
            if group.done and group.admitted:
                self._admitted.remove(group)
                self._release(group)

    def _commit_chunks(self, step: Step) -> list[PathState]:
        """Mark KV as filled; returns given continuations that are scored to the end."""
        done: list[PathState] = []
        for chunk in step.chunks:
            count, path = len(chunk.tokens), chunk.path
            if chunk.node is not None:
                chunk.node.filled += count
                self._nodes = None
            done += [scored for scored in chunk.scores if scored.num_inputs == 0]
            self._stats.prefilled_tokens += count if chunk.slots[0] >= 0 else 0
            if path is None:
                continue
            path.filled += count
            if path.filled < path.num_inputs:
                continue
            chunk.group.resuming.remove(path)
            if path.forced:
                self._pool.release(path.pages)
                done.append(path)
            else:
                chunk.group.running += 1
                self._stats.recomputed_tokens += path.filled
            path.pages, path.filled = [], 0
        return done

    def _finish(self, slot: int, token: int, stopped: bool, ends: TextEnds) -> PathState:
        path, pages = self.table.remove(slot)
        self._pool.release(pages)
        path.group.running -= 1
        eos = not path.params.params.ignore_eos and token in path.params.eos_ids
        if stopped:
            path.finish_reason, path.stop_reason = "stop", None if eos else token
        elif slot in ends:
            path.finish_reason = "stop"
            path.stop_reason, path.text_end = ends[slot]
        else:
            path.finish_reason = "length"
        return path

    def cancel(self, group: Group, request: int, count: int) -> list[PathState]:
        """Drop the paths of ``request`` with index ``count`` or more, between two steps.

        Args:
            group: the request's own group.
            request: index of the request in the call.
            count: paths to keep.

        Returns:
            The paths dropped, with what they had sampled; their pages are free.
        """
        dropped = [path for path in group.pending if path.index >= count]
        group.pending = deque(path for path in group.pending if path.index < count)
        for path in [path for path in group.resuming if path.index >= count]:
            group.resuming.remove(path)
            self._pool.release(path.pages)
            path.pages, path.filled = [], 0
            dropped.append(path)
        table, slots = self.table, self.table.occupied()
        slots = slots[(table.request[slots] == request) & (table.index[slots] >= count)]
        table.deactivate(slots)
        for slot in slots.tolist():
            path, pages = table.remove(slot)
            self._pool.release(pages)
            dropped.append(path)
        group.running -= len(slots)
        for path in dropped:
            path.finish_reason = "abort"
        self._retire(dropped)
        return dropped

    def abort(self) -> None:
        """Drop all work and give back every page and lock; cached prompts stay."""
        for group in self._admitted:
            for path in group.resuming:
                if path.slot < 0:  # else the row table holds the same pages
                    self._pool.release(path.pages)
            self._release(group)
        for slot in self.table.occupied():
            self._pool.release(self.table.remove(int(slot))[1])
        self.table.deactivate(self.table.active)
        self._admitted.clear()
        self._waiting.clear()
