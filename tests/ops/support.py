"""Shared by the op tests: which code to run, random prefix trees as plans, tolerances."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

import pytest
import torch

from fastsi import _ext
from fastsi.ops import SegmentPlan
from fastsi.ops._registry import TABLE
from tests.support import interpreter

Tensors = tuple[torch.Tensor, ...]
ISAS = ("portable", "avx2", "avx512", "amx")
VNNI = ("avx2_vnni", "avx512_vnni")
"""Instruction sets whose kernels are those of avx2 and avx512, but for integer products."""
BF16 = ("avx512_bf16",)
"""The same of avx512_vnni, but for linear layers in bfloat16."""


def runners(op: str) -> list[str]:
    """Test ids of everything that can run ``op``: each backend, and cpu once per ISA."""
    names: list[str] = []
    isas = ISAS + {"segment_attention": VNNI, "linear": BF16}.get(op, ())
    for row in TABLE:
        if row.op == op:
            names += [f"cpu-{isa}" for isa in isas] if row.backend == "cpu" else [row.backend]
    return names


@contextlib.contextmanager
def running(name: str) -> Iterator[str]:
    """Set up the runner called ``name`` and give the backend to pass to the op."""
    backend, _, isa = name.partition("-")
    if backend == "cuda" and (_ext.load("_C_cuda")[0] is None or not torch.cuda.is_available()):
        pytest.skip("this machine or build has no CUDA")
    if backend == "triton" and find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if backend == "triton" and not torch.cuda.is_available():
        interpreter.mend()
    if not isa:
        yield backend
        return
    if isa not in _ext.core().available_isas():
        pytest.skip(f"this CPU or build has no {isa}")
    before = _ext.core().isa()
    _ext.core().set_isa(isa)
    try:
        yield backend
    finally:
        _ext.core().set_isa(before)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run with another thread count of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_as_good_as_torch(
    got: torch.Tensor, plain: torch.Tensor, truth: torch.Tensor, factor: float = 2.0
) -> None:
    """The largest error of ``got`` is at most ``factor`` times that of plain torch.

    Both are measured against ``truth`` in float64. Plain torch may be exact by luck on small sizes,
    so its error counts as at least one unit in the last place of the largest value; in float64
    plain torch is the truth, and the order of additions may cost 16 units.
    """
    assert got.dtype == plain.dtype
    assert got.shape == truth.shape
    finite = truth.isfinite()
    assert torch.equal(got.isfinite(), finite)
    assert torch.equal(got[~finite].double(), truth[~finite].double())
    if not finite.any():
        return
    largest = truth[finite].abs().max().item()
    error = (got.double() - truth)[finite].abs().max().item()
    allowed = (plain.double() - truth)[finite].abs().max().item()
    units = 16 if plain.dtype == torch.float64 else 1
    allowed = max(allowed, units * torch.finfo(plain.dtype).eps * largest)
    assert error <= factor * allowed, f"error {error:.3g}, plain torch {allowed:.3g}"


@dataclasses.dataclass
class Node:
    """A span of one prefix tree: tokens, its first position, its pages, the rows under it."""

    length: int
    start: int
    offset: int
    pages: list[int]
    rows: list[int] = dataclasses.field(default_factory=list)
    children: list[Node] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Tree:
    """Random prefix trees laid out in pages; every leaf is a path with one decoding row."""

    page_size: int
    num_pages: int
    paths: list[list[Node]]
    """Nodes of each path, root first."""

    def plan(self, chosen: Sequence[int] | None = None) -> SegmentPlan:
        """The decode plan of the chosen paths (all by default): one row per path."""
        picked = list(range(len(self.paths))) if chosen is None else list(chosen)
        spans: dict[int, tuple[Node, list[int]]] = {}
        depth_first: list[Node] = []
        for row, path in enumerate(picked):
            for node in self.paths[path]:
                if id(node) not in spans:
                    spans[id(node)] = (node, [])
                    depth_first.append(node)
                spans[id(node)][1].append(row)
        ends = [self.paths[p][-1].start + self.paths[p][-1].length for p in picked]
        return SegmentPlan.from_lists(
            pages=[node.pages for node in depth_first],
            page_offset=[node.offset for node in depth_first],
            kv_len=[node.length for node in depth_first],
            kv_start=[node.start for node in depth_first],
            rows=[(spans[id(n)][1][0], spans[id(n)][1][-1] + 1) for n in depth_first],
            causal=[False] * len(depth_first),
            row_pos=[max(end - 1, 0) for end in ends],
            per_path=[not node.children for node in depth_first],
        )


def random_tree(
    draw: Callable[[int, int], int], *, page_size: int, depth: int = 3, longest: int = 150
) -> Tree:
    """Build a forest from ``draw(low, high)``, an inclusive source of integers."""
    tree = Tree(page_size, 0, [])

    def grow(start: int, level: int, above: list[Node]) -> Node:
        length = draw(0 if above else 1, longest)
        offset = draw(0, page_size - 1)
        count = -(-(offset + length) // page_size)
        node = Node(length, start, offset, list(range(tree.num_pages, tree.num_pages + count)))
        tree.num_pages += count
        chain = [*above, node]
        children = 0 if level + 1 >= depth else draw(0, 4)
        if children == 0:
            tree.paths.append(chain)
        for _ in range(children):
            node.children.append(grow(start + length, level + 1, chain))
        return node

    for _ in range(draw(1, 3)):
        grow(0, 0, [])
    return tree


def integers(generator: torch.Generator) -> Callable[[int, int], int]:
    """``draw`` for `random_tree` from a torch generator."""
    return lambda low, high: int(torch.randint(low, high + 1, (1,), generator=generator))


def qkv(
    plan: SegmentPlan,
    *,
    heads: tuple[int, int],
    head_dim: int,
    page_size: int,
    pages: int,
    seed: int,
    dtype: torch.dtype = torch.float64,
) -> Tensors:
    """Random q, k_cache, v_cache for a plan; ``heads`` is (query heads, key/value heads)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    cache = (max(pages, 1), heads[1], page_size, head_dim)
    return normal(plan.num_rows, heads[0], head_dim), normal(*cache), normal(*cache)


def device_of(name: str) -> torch.device:
    """Where the tensors of the runner called ``name`` belong."""
    on_gpu = name in ("triton", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")
