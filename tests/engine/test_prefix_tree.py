"""The radix tree against a plain dictionary of prefixes, under random operations."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.engine.kv_pool import KVPool, LayerShape
from fastsi.engine.prefix_tree import Node, PrefixTree

PAGE = 4
prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), min_size=1, max_size=8)


def make(pages: int = 64) -> tuple[PrefixTree, KVPool]:
    pool = KVPool(
        [LayerShape(1, 2)],
        num_pages=pages,
        page_size=PAGE,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    return PrefixTree(pool), pool


def tokens_of(leaf: Node) -> list[int]:
    return [int(token) for node in leaf.chain() for token in node.tokens]


def fill(tree: PrefixTree, leaf: Node, pool: KVPool) -> None:
    """Prefill a chain: every slot gets its token, position and, so, its prefix's identity."""
    tree.allocate(leaf)
    for node in leaf.chain():
        for j in range(node.filled, len(node.tokens)):
            slot = int(node.slots(j, j + 1, PAGE)[0])
            pool.k[0][slot // PAGE, 0, slot % PAGE, 0] = float(node.tokens[j])
            pool.k[0][slot // PAGE, 0, slot % PAGE, 1] = float(node.start + j)
        node.filled = len(node.tokens)


def read(leaf: Node, pool: KVPool) -> list[tuple[int, int]]:
    """Token and position of every filled slot of a chain, in order."""
    found = []
    for node in leaf.chain():
        for slot in node.slots(0, node.filled, PAGE).tolist():
            token, position = pool.k[0][slot // PAGE, 0, slot % PAGE].tolist()
            found.append((int(token), int(position)))
    return found


@settings(max_examples=200, deadline=None)
@given(prompts)
def test_insertion_keeps_prompts_and_shares_their_prefixes(batch: list[list[int]]) -> None:
    tree, _ = make()
    leaves = [tree.insert(prompt) for prompt in batch]
    tree.check_integrity()
    assert [tokens_of(leaf) for leaf in leaves] == batch
    total = sum(len(node.tokens) for node in tree._nodes())
    distinct = {tuple(prompt[: i + 1]) for prompt in batch for i in range(len(prompt))}
    assert total == len(distinct)
    for a, left in zip(leaves, batch, strict=True):
        for b, right in zip(leaves, batch, strict=True):
            assert (a is b) == (left == right)


@settings(max_examples=200, deadline=None)
@given(prompts)
def test_numbers_are_preorder_intervals(batch: list[list[int]]) -> None:
    tree, _ = make()
    leaves = [tree.insert(prompt) for prompt in batch]
    leaves += [tree.insert(batch[0], private=True) for _ in range(2)]
    tree.number()
    nodes = [tree.root, *tree._nodes()]
    assert sorted(node.tin for node in nodes) == list(range(len(nodes)))
    for leaf in leaves:
        above = {id(node) for node in leaf.chain()} | {id(tree.root)}
        for node in nodes:
            assert (node.tin <= leaf.tin <= node.tout) == (id(node) in above)


@settings(max_examples=300, deadline=None)
@given(st.lists(prompts, min_size=1, max_size=4), st.data())
def test_splits_keep_what_is_cached_and_eviction_keeps_what_is_locked(
    calls: list[list[list[int]]], data: st.DataObject
) -> None:
    """Insert, prefill, lock and evict over several calls; slots always hold the right token."""
    tree, pool = make(pages=40)
    for batch in calls:
        leaves = [tree.insert(prompt) for prompt in batch]
        tree.check_integrity()
        pool.check(tree.owned_pages())
        for leaf in leaves:  # a split must not lose or move anything
            chain = leaf.chain()
            held = [
                (int(t), n.start + j) for n in chain for j, t in enumerate(n.tokens[: n.filled])
            ]
            assert read(leaf, pool) == held
        locked: list[Node] = []
        for leaf in leaves:
            tree.lock(leaf)
            missing = tree.pages_missing(leaf)
            tree.evict(missing)
            if pool.num_free < missing:
                tree.unlock(leaf)
                continue
            locked.append(leaf)
            fill(tree, leaf, pool)
        want = data.draw(st.integers(0, 40))
        possible = pool.num_free + tree.num_evictable()
        tree.evict(want)
        assert pool.num_free >= min(want, possible)
        tree.check_integrity()
        pool.check(tree.owned_pages())
        for leaf in locked:
            assert read(leaf, pool) == list(zip(tokens_of(leaf), range(99), strict=False))
            tree.unlock(leaf)
        tree.prune()
        tree.check_integrity()
        pool.check(tree.owned_pages())
        assert all(node.pages or node.children for node in tree._nodes())
    tree.clear()
    pool.check([])
    assert not list(tree._nodes())


def test_the_least_recently_used_prompt_goes_first() -> None:
    tree, pool = make(pages=6)
    leaves = [tree.insert([10 * i + j for j in range(8)]) for i in range(3)]
    for leaf in [leaves[1], leaves[2], leaves[0]]:
        tree.lock(leaf)
        fill(tree, leaf, pool)
        tree.unlock(leaf)
    tree.evict(2)
    assert [bool(leaf.pages) for leaf in leaves] == [True, False, True]
    tree.evict(4)
    assert [bool(leaf.pages) for leaf in leaves] == [True, False, False]


def test_a_split_inside_a_page_copies_nothing() -> None:
    tree, pool = make()
    long = tree.insert(list(range(10)))
    tree.lock(long)
    fill(tree, long, pool)
    tree.unlock(long)
    free = pool.num_free
    short = tree.insert(list(range(6)))
    assert pool.num_free == free
    assert short.filled == 6
    assert (long.page_offset, long.filled) == (2, 4)
    assert long.pages[0] == short.pages[-1]
    assert np.array_equal(long.tokens, np.arange(6, 10))
