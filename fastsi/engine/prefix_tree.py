"""Radix tree over prompt tokens: what several prompts have in common is one node, prefilled once.

A node owns the pages of its tokens. Locks say that running paths need a node; unlocked nodes stay
cached until pages are wanted, the least recently used going first. A node's KV may begin inside a
page (`page_offset`), because a split copies nothing: both halves own the page they meet in.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fastsi.engine.kv_pool import KVPool

Tokens = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens at fixed positions below one parent."""

    tokens: Tokens
    start: int
    """Absolute position of ``tokens[0]``."""
    parent: Node | None
    children: dict[int | bytes, Node] = field(default_factory=dict)
    """By first token; in a tree of blocks by all tokens of the child."""
    pages: list[int] = field(default_factory=list)
    """Empty until pages are allocated for the whole node."""
    page_offset: int = 0
    """Slot of ``tokens[0]`` inside ``pages[0]``."""
    filled: int = 0
    """Leading tokens whose keys and values are in the cache."""
    locks: int = 0
    """Groups that need this node now; a locked node is not evicted."""
    last_used: int = 0
    """The tree's clock at the last lock."""
    tin: int = 0
    """Preorder number; the subtree holds numbers tin..tout."""
    tout: int = 0

    @property
    def end(self) -> int:
        """One past the absolute position of the last token."""
        return self.start + len(self.tokens)

    def slots(self, begin: int, end: int, page_size: int) -> npt.NDArray[np.int64]:
        """KV slots of tokens [begin, end) of the node, int64 [end - begin]."""
        offsets = np.arange(self.page_offset + begin, self.page_offset + end)
        pages = np.asarray(self.pages, dtype=np.int64)
        return pages[offsets // page_size] * page_size + offsets % page_size

    def chain(self) -> list[Node]:
        """The node and its ancestors, root excluded, topmost first."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class PrefixTree:
    """The radix tree and the eviction of its pages.

    `insert` may split nodes, so it is called before `number`, which fixes the depth-first order of
    a call; in between two calls of `number` the shape of the tree does not change.
    """

    def __init__(self, pool: KVPool, block: int | None = None) -> None:
        """An empty tree.

        Args:
            pool: where pages come from.
            block: None: nodes end where prompts differ. A number: every prompt is cut after each
                ``block`` tokens and nowhere else, so that the spans of a prompt, and with them the
                order in which attention adds them up, do not depend on what else is in the tree.
        """
        self._pool, self._block = pool, block
        self.root = Node(tokens=np.empty(0, dtype=np.int64), start=0, parent=None)
        self._private: list[Node] = []
        self._locked: dict[int, Node] = {}
        self._clock = 0

    def insert(self, tokens: Sequence[int] | Tokens, *, private: bool = False) -> Node:
        """The node that ends with the prompt's last token, made and split off as needed.

        Args:
            tokens: the prompt, at least one token.
            private: keep the prompt apart from all others (sharing switched off).
        """
        rest = np.asarray(tokens, dtype=np.int64)
        assert len(rest) > 0
        node = self.root
        if self._block is not None:
            return self._insert_blocks(rest, self._block, private)
        if private:
            leaf = Node(tokens=rest, start=0, parent=node)
            self._private.append(leaf)
            return leaf
        while len(rest):
            child = node.children.get(int(rest[0]))
            if child is None:
                child = Node(tokens=rest, start=node.end, parent=node)
                node.children[int(rest[0])] = child
                return child
            common = _common_prefix(child.tokens, rest)
            if common < len(child.tokens):
                child = self._split(child, common)
            node, rest = child, rest[common:]
        return node

    def _insert_blocks(self, tokens: Tokens, block: int, private: bool) -> Node:
        node = self.root
        for start in range(0, len(tokens), block):
            run = tokens[start : start + block]
            apart = private and node is self.root
            child = None if apart else node.children.get(run.tobytes())
            if child is None:
                child = Node(tokens=run, start=start, parent=node)
                if apart:
                    self._private.append(child)
                else:
                    node.children[run.tobytes()] = child
            node = child
        return node

    def _key(self, node: Node) -> int | bytes:
        """The name of ``node`` among its parent's children."""
        return int(node.tokens[0]) if self._block is None else node.tokens.tobytes()

    def _split(self, lower: Node, at: int) -> Node:
        """Cut ``lower`` before token ``at``; the new upper node is returned.

        ``lower`` stays the same object: groups hold it as the end of their prompt.
        """
        parent, page_size = lower.parent, self._pool.page_size
        assert parent is not None
        assert lower.locks == 0
        upper = Node(
            tokens=lower.tokens[:at],
            start=lower.start,
            parent=parent,
            children={int(lower.tokens[at]): lower},
            page_offset=lower.page_offset,
            filled=min(lower.filled, at),
            last_used=lower.last_used,
        )
        parent.children[int(lower.tokens[0])] = upper
        if lower.pages:
            cut = lower.page_offset + at
            upper.pages = lower.pages[: -(-cut // page_size)]
            lower.pages = lower.pages[cut // page_size :]
            lower.page_offset = cut % page_size
            if cut % page_size:
                self._pool.share(lower.pages[0])
        lower.tokens, lower.start = lower.tokens[at:], lower.start + at
        lower.filled, lower.parent = max(0, lower.filled - at), upper
        return upper

    def number(self) -> None:
        """Set ``tin`` and ``tout`` of every node to the depth-first order."""
        count = 0
        stack: list[tuple[Node, bool]] = [(self.root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                node.tout = count - 1
                continue
            node.tin, count = count, count + 1
            stack.append((node, True))
            children = list(node.children.values())
            if node is self.root:
                children += self._private
            stack.extend((child, False) for child in reversed(children))

    def lock(self, leaf: Node) -> None:
        """Keep ``leaf`` and its ancestors in the cache."""
        self._clock += 1
        for node in leaf.chain():
            node.locks += 1
            node.last_used = self._clock
            self._locked[id(node)] = node

    def unlock(self, leaf: Node) -> None:
        """Take back one `lock`."""
        for node in leaf.chain():
            assert node.locks > 0
            node.locks -= 1
            if node.locks == 0:
                del self._locked[id(node)]

    def pages_missing(self, leaf: Node) -> int:
        """Pages to allocate before the whole chain of ``leaf`` can be prefilled."""
        size = self._pool.page_size
        return sum(-(-len(node.tokens) // size) for node in leaf.chain() if not node.pages)

    def allocate(self, leaf: Node) -> None:
        """Give pages to the nodes of the chain that have none; the pool has enough."""
        for node in leaf.chain():
            if not node.pages:
                node.pages = self._pool.allocate(-(-len(node.tokens) // self._pool.page_size))
                node.page_offset = node.filled = 0

    def evict(self, count: int) -> None:
        """Release pages of unlocked nodes until ``count`` are free or nothing is left to release.

        A node goes only when no child holds pages: a cached child is useless without its ancestors.
        """
        if self._pool.num_free >= count:
            return
        heap = [(n.last_used, -n.start, id(n), n) for n in self._nodes() if self._evictable(n)]
        heapq.heapify(heap)
        while heap and self._pool.num_free < count:
            node = heapq.heappop(heap)[3]
            self._drop(node)
            parent = node.parent
            if parent is not None and self._evictable(parent):
                heapq.heappush(heap, (parent.last_used, -parent.start, id(parent), parent))

    def _evictable(self, node: Node) -> bool:
        return (
            bool(node.pages)
            and node.locks == 0
            and not any(child.pages for child in node.children.values())
        )

    def _drop(self, node: Node) -> None:
        self._pool.release(node.pages)
        node.pages, node.page_offset, node.filled = [], 0, 0

    def num_evictable(self) -> int:
        """Pages that `evict` could free (a page with two owners counts once both can go)."""
        owners: dict[int, int] = {}
        for node in self._nodes():
            if node.pages and node.locks == 0:
                for page in node.pages:
                    owners[page] = owners.get(page, 0) + 1
        return sum(1 for page, n in owners.items() if self._pool.owners(page) == n)

    def prune(self) -> None:
        """After a call: forget private prompts and nodes that hold no keys and values."""
        for node in self._below(self._private):
            self._drop(node)
        self._private.clear()
        for node in reversed(list(self._nodes())):
            parent = node.parent
            if parent is None or node.locks:
                continue
            if node.pages and node.filled < len(node.tokens):
                self._drop(node)  # cut off by an error in the middle of its prefill
            if not node.pages and not node.children:
                del parent.children[self._key(node)]

    def clear(self) -> None:
        """Forget every prompt; nothing may be locked."""
        for node in self._nodes():
            assert node.locks == 0
            if node.pages:
                self._drop(node)
        self.root.children.clear()
        self._private.clear()

    def _nodes(self) -> Iterator[Node]:
        """Every node but the root, parents before children."""
        return self._below([*self.root.children.values(), *self._private])

    def _below(self, nodes: Iterable[Node]) -> Iterator[Node]:
        """The nodes and everything under them, parents before children."""
        stack = list(nodes)
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def locked_nodes(self) -> list[Node]:
        """Nodes that running groups need, in depth-first order."""
        return sorted(self._locked.values(), key=lambda n: n.tin)

    def owned_pages(self) -> Iterator[list[int]]:
        """The pages of every node, for integrity checks."""
        return (node.pages for node in self._nodes())

    def check_integrity(self) -> None:
        """Raise unless the tree's invariants hold (for tests)."""
        size = self._pool.page_size
        for node in self._nodes():
            assert node.parent is not None
            assert len(node.tokens) > 0
            assert node.start == node.parent.end
            assert 0 <= node.filled <= len(node.tokens)
            assert node.parent is self.root or node.parent.locks >= node.locks
            if node.pages:
                assert len(node.pages) == -(-(node.page_offset + len(node.tokens)) // size)
                assert node.parent is self.root or node.parent.pages
            else:
                assert node.filled == 0
            for name, child in node.children.items():
                assert self._key(child) == name
                assert child.parent is node
            if self._block is not None:
                assert node.start % self._block == 0
                assert len(node.tokens) == self._block or not node.children


def _common_prefix(a: Tokens, b: Tokens) -> int:
    """Length of the longest common prefix of two token runs."""
    shortest = min(len(a), len(b))
    different = np.flatnonzero(a[:shortest] != b[:shortest])
    return int(different[0]) if len(different) else shortest
