"""Log-probability of chosen tokens and its gradients: all logits at once, and in chunks.

The time is that of a forward and a backward pass. Peak memory, over what is there before, is in
the details: on a GPU as its allocator counts it, on a CPU as the largest bytes that torch's
operations held at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import DTYPES, GPU_BACKENDS, Tensors, check, fill_sizes, finish, parser

from fastsi.ops import token_logprob

SIZES = {
    "rows": (1024, 8, "target tokens"),
    "vocab": (49152, 600, "tokens in the vocabulary"),
    "hidden": (576, 16, "size of a state"),
}


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Largest number of bytes allocated at once during a call, over those before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    dtype = DTYPES[args.dtype]
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(args.device, dtype)

    hidden = normal(sizes["rows"], sizes["hidden"])
    weight = normal(sizes["vocab"], sizes["hidden"]) / sizes["hidden"] ** 0.5
    shape = (sizes["rows"],)
    targets = torch.randint(0, sizes["vocab"], shape, generator=generator).to(args.device)

    def both_passes(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Tensors:
        h, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        nll = loss(h, w)
        return (nll.detach()[None], *torch.autograd.grad(nll, (h, w)))

    def plain(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        logits = functional.linear(h, w)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(logits, targets, reduction="sum")

    def ours(h: torch.Tensor, w: torch.Tensor, backend: str) -> torch.Tensor:
        return -token_logprob(h, w, targets, backend=backend)[0].sum()

    providers: dict[str, Callable[[], Tensors]] = {
        "torch-cross-entropy": lambda: both_passes(plain),
        **{
            b: lambda b=b: both_passes(lambda h, w: ours(h, w, b))
            for b in GPU_BACKENDS[args.device]
        },
    }
    exact = hidden.double().requires_grad_(), weight.double().requires_grad_()
    nll = plain(*exact)
    truth = (nll.detach()[None], *torch.autograd.grad(nll, exact))
    differences = check(providers, truth, dtype)
    del exact, nll, truth
    peaks = {name: peak_bytes(run, args.device) for name, run in providers.items()}
    finish(
        args,
        "token_logprob",
        sizes,
        providers,
        rows=sizes["rows"],
        flops=6.0 * sizes["rows"] * sizes["vocab"] * sizes["hidden"],
        moved=3.0 * weight.nbytes,
        note="three products; ours makes the logits twice, which is a fourth",
        differences=differences | {f"peak_bytes {name}": float(n) for name, n in peaks.items()},
    )


if __name__ == "__main__":
    main()
