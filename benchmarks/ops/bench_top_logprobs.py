"""The likeliest tokens and ranks: log_softmax and topk of torch, ours."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, check, fill_sizes, finish, parser

from fastsi.ops import top_logprobs

SIZES = {
    "rows": (256, 4, "rows"),
    "vocab": (49152, 500, "tokens of the vocabulary"),
    "count": (5, 2, "tokens to list per row"),
}


def plain(logits: torch.Tensor, tokens: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """As a sampler without the op would write it."""
    logprobs = torch.log_softmax(logits.float(), dim=1)
    own = logprobs.gather(1, tokens[:, None])
    return torch.topk(logprobs, count, dim=1).values, (logprobs > own).sum(dim=1) + 1


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    rows, vocab, count = (sizes[name] for name in SIZES)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, vocab, generator=generator).to(args.device, DTYPES[args.dtype])
    tokens = torch.randint(0, vocab, (rows,), generator=generator).to(args.device)
    ours = "cuda" if args.device == "cuda" else "cpu"
    providers = {
        "torch": lambda: plain(logits, tokens, count),
        ours: lambda: top_logprobs(logits, tokens, count, backend=ours)[1:],
    }
    truth = top_logprobs(logits.double(), tokens, count, backend="reference")[1:]
    finish(
        args,
        "top_logprobs",
        sizes,
        providers,
        rows=rows,
        flops=8.0 * logits.numel(),
        moved=float(logits.nbytes),
        note="each logit read once from memory; 8 operations each",
        differences=check(providers, truth, logits.dtype),
    )


if __name__ == "__main__":
    main()
