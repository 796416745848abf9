"""Linear layer over packed weights: torch's linear against the packed kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, check, fill_sizes, finish, parser

from fastsi.ops import linear, pack_weight

SIZES = {
    "rows": (64, 4, "rows"),
    "inputs": (576, 40, "input features"),
    "outputs": (3072, 48, "output features"),
}


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    if args.dtype != "float32":
        raise SystemExit(f"--dtype={args.dtype}: packed weights are float32")
    sizes = fill_sizes(args)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sizes["rows"], sizes["inputs"], generator=generator)
    weight = torch.randn(sizes["outputs"], sizes["inputs"], generator=generator)
    packed = pack_weight([weight])
    out = torch.empty(sizes["rows"], sizes["outputs"])
    providers = {
        "torch": lambda: (torch.nn.functional.linear(x, weight),),
        "cpu": lambda: (linear(x, packed, out=out, backend="cpu"),),
    }
    truth = (torch.nn.functional.linear(x.double(), weight.double()),)
    finish(
        args,
        "linear",
        sizes,
        providers,
        rows=sizes["rows"],
        flops=2.0 * sizes["rows"] * weight.numel(),
        moved=float(weight.nbytes + x.nbytes + out.nbytes),
        note="weights and rows read once, results written once; rates of float32",
        differences=check(providers, truth, DTYPES[args.dtype]),
    )


if __name__ == "__main__":
    main()
