"""Draw of one token per row: torch's softmax and multinomial, the reference, and ours.

The torch provider draws from the same distribution with torch's own means, from one stream for all
rows; with top-k or top-p it sorts, as samplers built on torch do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, GPU_BACKENDS, Tensors, check, fill_sizes, finish, parser

from fastsi.ops import SampleParams, sample_tokens

SIZES = {
    "rows": (32, 4, "paths"),
    "vocab": (49152, 500, "tokens in the vocabulary"),
}
RESULTS = ("token", "logprob", "logprob_full", "kept_mass")


def make_logits(
    rows: int, vocab: int, dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    """A few likely tokens above a broad floor, like a language model's; [rows, vocab]."""
    generator = torch.Generator(device=device).manual_seed(0)
    logits = torch.randn(rows, vocab, generator=generator, device=device) * 2
    logits[:, ::997] += 8
    return logits.to(dtype)


def with_torch(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> torch.Tensor:
    """The same draw by softmax and multinomial, after sorts where it is truncated."""
    z = logits.float() / temperature
    if 0 < top_k < z.shape[1]:
        edge = z.topk(top_k, dim=1).values[:, -1:]
        z = z.masked_fill(z < edge, -torch.inf)
    if top_p < 1:
        ordered, index = z.sort(dim=1, descending=True)
        mass = ordered.softmax(dim=1).cumsum(dim=1)
        drop = mass - ordered.softmax(dim=1) > top_p
        z = z.scatter(1, index, ordered.masked_fill(drop, -torch.inf))
    return z.softmax(dim=1).multinomial(1)[:, 0]


def providers(
    logits: torch.Tensor, params: SampleParams, options: dict[str, Any], backends: Sequence[str]
) -> dict[str, Callable[[], Any]]:
    """By name, a draw from ``logits`` that does not make the host wait for a device."""

    def ours(backend: str) -> Tensors:
        drawn = sample_tokens(logits, params, check=False, backend=backend)
        return drawn.token, drawn.logprob, drawn.logprob_full, drawn.kept_mass

    return {
        "torch-multinomial": lambda: with_torch(logits, **options),
        **{backend: lambda b=backend: ours(b) for backend in backends},
    }


def main() -> None:
    """Check, time, print."""
    made = parser(__doc__, **SIZES)
    made.add_argument("--temperature", type=float, default=0.7, help="above 0")
    made.add_argument("--top-k", type=int, default=0, help="0 keeps all")
    made.add_argument("--top-p", type=float, default=1.0, help="1 keeps all")
    args = made.parse_args()
    start(args)
    if args.device == "cuda" and not args.quick:  # the workload of the goal
        args.rows, args.vocab = args.rows or 256, args.vocab or 128_256
    sizes = fill_sizes(args)
    if not args.temperature > 0 or not 0 < args.top_p <= 1:
        raise SystemExit("--temperature must be above 0 and --top-p in (0, 1]")
    dtype = DTYPES[args.dtype]
    logits = make_logits(sizes["rows"], sizes["vocab"], dtype, args.device)
    options = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
    params = SampleParams.build(key=range(sizes["rows"]), position=0, device=args.device, **options)
    backends = ("reference", *GPU_BACKENDS[args.device])
    timed = providers(logits, params, options, backends)
    exact = sample_tokens(logits.double(), params, backend="reference")
    truth = tuple(getattr(exact, name).double() for name in RESULTS)
    checked = {name: timed[name] for name in backends}
    finish(
        args,
        "sample_tokens",
        sizes | options,
        timed,
        rows=sizes["rows"],
        flops=0.0,
        moved=float(logits.nbytes),
        note="each logit read once",
        differences=check(checked, truth, dtype),
    )


if __name__ == "__main__":
    main()
