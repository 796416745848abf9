"""Merge of partial attention results: plain torch against the C++ backend, on CUDA Triton's."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, check, fill_sizes, finish, parser

from fastsi.ops import merge_states

SIZES = {
    "parts": (4, 2, "partial results per row"),
    "rows": (512, 8, "rows"),
    "heads": (9, 2, "query heads"),
    "head_dim": (64, 16, "size of a head"),
}


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    dtype = DTYPES[args.dtype]
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    shape = (sizes["parts"], sizes["rows"], sizes["heads"], sizes["head_dim"])
    outs = torch.randn(shape, generator=generator).to(args.device, dtype)
    lses = torch.randn(shape[:3], generator=generator).to(args.device, sums)
    ours = "triton" if args.device == "cuda" else "cpu"
    providers = {
        "reference": lambda: merge_states(outs, lses, backend="reference"),
        ours: lambda: merge_states(outs, lses, backend=ours),
    }
    truth = merge_states(outs.double(), lses.double(), backend="reference")
    moved = (outs.nbytes + lses.nbytes) * (1 + 1 / sizes["parts"])
    finish(
        args,
        "merge_states",
        sizes,
        providers,
        rows=sizes["rows"],
        flops=2.0 * outs.numel(),
        moved=moved,
        note="each partial result read once, each merged one written once",
        differences=check(providers, truth, dtype),
    )


if __name__ == "__main__":
    main()
