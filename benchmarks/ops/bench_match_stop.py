"""Stop strings and completed answers over a step's new tokens: Python against the C++ backend."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import Tensors, check, fill_sizes, finish, parser

from fastsi import ops

SIZES = {
    "rows": (256, 8, "paths that decode, one new token each"),
    "steps": (64, 24, "steps per run"),
}
STOPS = ("\nQ:", "\n\n")
SENTENCE = "First, 12 + 30 = 42. Then 42 / 2 = 21 apples are left.\nThe answer is 21. So it is.\n"


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    rng = random.Random(0)
    pieces = [SENTENCE[at : at + 3].encode() for at in range(0, len(SENTENCE), 3)]
    tables = {"cpu": ops.TokenBytes.from_parts(pieces, [0] * len(pieces))}
    made = {"cpu": ops.StopRules.make([(STOPS, True, True)])}
    width = made["cpu"].width
    if args.device == "cuda":
        tables["cuda"], made["cuda"] = tables["cpu"].to("cuda"), made["cpu"].to("cuda")
    slots = torch.arange(sizes["rows"])
    begin = torch.tensor([rng.randrange(len(pieces)) for _ in range(sizes["rows"])])

    def run(backend: str) -> Tensors:
        device = "cuda" if backend == "cuda" else "cpu"
        state = ops.StopState.make(sizes["rows"], width, device)
        state.rule.zero_()
        first, places = begin.to(device), slots.to(device)
        given = (places, tables[device], made[device], state)
        hits = [
            ops.match_stop((first + step) % len(pieces), *given, backend=backend)
            for step in range(sizes["steps"])
        ]
        return (torch.stack(hits).double().cpu(),)

    truth = run("reference")
    if not truth[0].any():
        raise SystemExit("no text was completed; the sizes are too small to check anything")
    backends = ("reference", "cpu", *(["cuda"] if args.device == "cuda" else []))
    differences = check({b: (lambda b=b: run(b)) for b in backends}, truth, torch.float64)
    finish(
        args,
        "match_stop",
        sizes,
        {b: (lambda b=b: run(b)) for b in backends},
        rows=sizes["rows"] * sizes["steps"],
        flops=0.0,
        moved=2.0 * sizes["rows"] * sizes["steps"] * width,
        note="the remembered end of every text read and written once per step",
        differences=differences,
    )


if __name__ == "__main__":
    main()
