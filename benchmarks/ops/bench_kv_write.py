"""Scatter of new keys and values into cache pages: indexed assignment against ours."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, GPU_BACKENDS, Tensors, check, fill_sizes, finish, parser

from fastsi.ops import kv_write

SIZES = {
    "rows": (512, 8, "new tokens"),
    "pages": (512, 4, "cache pages"),
    "page_size": (16, 16, "tokens per cache page"),
    "kv_heads": (3, 2, "key/value heads"),
    "head_dim": (64, 16, "size of a head"),
}


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    slots_in_cache = sizes["pages"] * sizes["page_size"]
    if sizes["rows"] > slots_in_cache:
        raise SystemExit(f"--rows={sizes['rows']}: the cache has {slots_in_cache} slots")
    dtype = DTYPES[args.dtype]
    generator = torch.Generator().manual_seed(0)
    new = (2, sizes["rows"], sizes["kv_heads"], sizes["head_dim"])
    k, v = torch.randn(new, generator=generator).to(args.device, dtype)
    shape = (2, sizes["pages"], sizes["kv_heads"], sizes["page_size"], sizes["head_dim"])
    cache = torch.zeros(shape, dtype=dtype, device=args.device)
    slots = torch.randperm(slots_in_cache, generator=generator)[: sizes["rows"]].to(args.device)

    def write(backend: str) -> Tensors:
        kv_write(k, v, cache[0], cache[1], slots, backend=backend)
        return (cache,)

    def checked(backend: str) -> Tensors:
        cache.zero_()
        return write(backend)

    truth = torch.zeros_like(cache)
    flat = truth.transpose(2, 3).flatten(1, 2)  # a copy: heads and tokens change places
    flat[0, slots], flat[1, slots] = k, v
    truth = flat.unflatten(1, (sizes["pages"], sizes["page_size"])).transpose(2, 3).double()
    backends = ("reference", *GPU_BACKENDS[args.device])
    differences = check({b: (lambda b=b: checked(b)) for b in backends}, (truth,), dtype)
    if any(differences.values()):
        raise SystemExit(f"a copy is not exact: {differences}")
    finish(
        args,
        "kv_write",
        sizes,
        {b: (lambda b=b: write(b)) for b in backends},
        rows=sizes["rows"],
        flops=0.0,
        moved=2.0 * (k.nbytes + v.nbytes) + slots.nbytes,
        note="each new key and value read once and written once",
        differences=differences,
    )


if __name__ == "__main__":
    main()
