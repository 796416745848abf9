"""Draw of one token per row: torch's softmax and multinomial, the reference, the C++ backend.

The torch provider draws from the same distribution with torch's own means, from one stream for all
rows; with top-k or top-p it sorts, as samplers built on torch do.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, Tensors, check, fill_sizes, finish, parser

from fastsi.ops import SampleParams, sample_tokens

SIZES = {
    "rows": (32, 4, "paths"),
    "vocab": (49152, 500, "tokens in the vocabulary"),
}


def main() -> None:
    """Check, time, print."""
    made = parser(__doc__, **SIZES)
    made.add_argument("--temperature", type=float, default=0.7, help="above 0")
    made.add_argument("--top-k", type=int, default=0, help="0 keeps all")
    made.add_argument("--top-p", type=float, default=1.0, help="1 keeps all")
    args = made.parse_args()
    start(args)
    sizes = fill_sizes(args)
    if not args.temperature > 0 or not 0 < args.top_p <= 1:
        raise SystemExit("--temperature must be above 0 and --top-p in (0, 1]")
    dtype = DTYPES[args.dtype]
    generator = torch.Generator().manual_seed(0)
    shape = (sizes["rows"], sizes["vocab"])
    # A few likely tokens above a broad floor, like a language model's.
    logits = torch.randn(shape, generator=generator) * 2
    logits[:, ::997] += 8
    logits = logits.to(dtype)
    options = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
    params = SampleParams.build(key=range(sizes["rows"]), position=0, **options)

    def with_torch() -> torch.Tensor:
        z = logits.float() / args.temperature
        if 0 < args.top_k < sizes["vocab"]:
            edge = z.topk(args.top_k, dim=1).values[:, -1:]
            z = z.masked_fill(z < edge, -torch.inf)
        if args.top_p < 1:
            ordered, index = z.sort(dim=1, descending=True)
            mass = ordered.softmax(dim=1).cumsum(dim=1)
            drop = mass - ordered.softmax(dim=1) > args.top_p
            z = z.scatter(1, index, ordered.masked_fill(drop, -torch.inf))
        return z.softmax(dim=1).multinomial(1)[:, 0]

    def ours(backend: str, z: torch.Tensor = logits) -> Tensors:
        drawn = sample_tokens(z, params, backend=backend)
        return drawn.token, drawn.logprob, drawn.logprob_full, drawn.kept_mass

    backends = {b: (lambda b=b: ours(b)) for b in ("reference", "cpu")}
    truth = tuple(t.double() for t in ours("reference", logits.double()))
    finish(
        args,
        "sample_tokens",
        sizes | options,
        {"torch-multinomial": with_torch, **backends},
        rows=sizes["rows"],
        flops=0.0,
        moved=float(logits.nbytes),
        note="each logit read once",
        differences=check(backends, truth, dtype),
    )


if __name__ == "__main__":
    main()
