"""Decode attention of many paths behind one shared prefix.

Providers: torch's own attention over gathered keys and values (what a model without a shared cache
does; gathering is not timed), the plain torch reference, the C++ backend with every path reading
the prefix for itself, and the C++ backend with the prefix as one segment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, Tensors, check, fill_sizes, finish, parser

from fastsi.ops import SegmentPlan, segment_attention

SIZES = {
    "paths": (32, 4, "decoding paths"),
    "prefix_tokens": (1024, 40, "tokens all paths share"),
    "own_tokens": (60, 9, "tokens of each path"),
    "query_heads": (9, 4, "query heads"),
    "kv_heads": (3, 2, "key/value heads"),
    "head_dim": (64, 16, "size of a head"),
    "page_size": (16, 16, "tokens per cache page"),
}


def make_plan(sizes: dict[str, int], *, shared: bool) -> SegmentPlan:
    """One segment for the prefix, or one per path; then one per path for its own tokens."""
    paths, prefix, own = sizes["paths"], sizes["prefix_tokens"], sizes["own_tokens"]
    per_prefix, per_own = -(-prefix // sizes["page_size"]), -(-own // sizes["page_size"])
    prefix_pages = list(range(per_prefix))
    own_pages = [
        list(range(per_prefix + i * per_own, per_prefix + (i + 1) * per_own)) for i in range(paths)
    ]
    alone = [(i, i + 1) for i in range(paths)]
    above = [(0, paths)] if shared else alone
    count = len(above) + paths
    return SegmentPlan.from_lists(
        pages=[prefix_pages] * len(above) + own_pages,
        page_offset=[0] * count,
        kv_len=[prefix] * len(above) + [own] * paths,
        kv_start=[0] * len(above) + [prefix] * paths,
        rows=above + alone,
        causal=[False] * count,
        row_pos=[prefix + own - 1] * paths,
    )


def gathered(plan: SegmentPlan, cache: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
    """Keys or values of every path laid end to end: [paths, kv_heads, tokens, head_dim]."""
    paths, prefix, own = sizes["paths"], sizes["prefix_tokens"], sizes["own_tokens"]
    flat = cache.transpose(1, 2).flatten(0, 1)
    per_prefix, per_own = (-(-n // sizes["page_size"]) for n in (prefix, own))
    size = sizes["page_size"]
    rows = []
    for path in range(paths):
        first = (per_prefix + path * per_own) * size
        rows.append(torch.cat([flat[:prefix], flat[first : first + own]]))
    return torch.stack(rows).transpose(1, 2).contiguous()


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    dtype = DTYPES[args.dtype]
    shared, apart = make_plan(sizes, shared=True), make_plan(sizes, shared=False)
    pages = int(shared.page_ids.max()) + 1
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    q = normal(sizes["paths"], sizes["query_heads"], sizes["head_dim"])
    cache = (pages, sizes["kv_heads"], sizes["page_size"], sizes["head_dim"])
    k_cache, v_cache = normal(*cache), normal(*cache)
    keys, values = (gathered(shared, c, sizes) for c in (k_cache, v_cache))

    def torch_attention() -> Tensors:
        out = torch.nn.functional.scaled_dot_product_attention(
            q[:, :, None], keys, values, enable_gqa=True
        )
        return (out[:, :, 0],)

    def ours(plan: SegmentPlan, backend: str) -> Tensors:
        return segment_attention(q, k_cache, v_cache, plan, backend=backend)[:1]

    providers = {
        "torch-sdpa": torch_attention,
        "reference": lambda: ours(shared, "reference"),
        "cpu-no-sharing": lambda: ours(apart, "cpu"),
        "cpu": lambda: ours(shared, "cpu"),
    }
    tensors = (t.double() for t in (q, k_cache, v_cache))
    truth = segment_attention(*tensors, shared, backend="reference")[:1]
    tokens = sizes["prefix_tokens"] + sizes["own_tokens"]
    read = sizes["prefix_tokens"] + sizes["paths"] * sizes["own_tokens"]
    item = q.element_size()
    finish(
        args,
        "segment_attention",
        sizes,
        providers,
        rows=sizes["paths"],
        flops=4.0 * q.numel() * tokens,
        moved=2.0 * read * sizes["kv_heads"] * sizes["head_dim"] * item + 2.0 * q.numel() * item,
        note="two products; each key and value read once, each query read and output written",
        differences=check(providers, truth, dtype),
    )


if __name__ == "__main__":
    main()
