"""Moving a batch's buffers on by the tokens drawn: torch's indexing and additions against ours."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import GPU_BACKENDS, Tensors, check, fill_sizes, finish, parser

from fastsi.ops import RowBuffers, advance_rows

SIZES = {
    "rows": (256, 8, "decoding rows"),
    "segments": (1024, 16, "segments of the plan, padding included"),
    "spans": (1024, 16, "spans of single rows, padding included"),
}


def buffers(sizes: dict[str, int], device: str) -> tuple[RowBuffers, Tensors]:
    """Buffers as a frame holds them, every row alive, and all that changes."""
    rows, segments, spans = sizes["rows"], sizes["segments"], sizes["spans"]
    live = torch.ones(rows + 1, dtype=torch.int64, device=device)
    live[-1] = 0
    records = torch.zeros(spans, 4, dtype=torch.int32, device=device)
    made = RowBuffers(
        ids=torch.zeros(rows, dtype=torch.int64, device=device),
        moving=torch.zeros(3, rows, dtype=torch.int64, device=device),
        row_pos=torch.zeros(rows, dtype=torch.int32, device=device),
        kv_len=torch.zeros(segments, dtype=torch.int32, device=device),
        span_ends=records[:, 1],
        live=live,
        grows_with=torch.arange(segments + spans, device=device) % (rows + 1),
    )
    return made, (made.ids, made.moving, made.row_pos, made.kv_len, made.span_ends)


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    rows, changed = buffers(sizes, args.device)
    token = torch.arange(sizes["rows"], device=args.device)
    slots, last = token.flip(0), torch.zeros_like(token)

    def move(backend: str) -> Tensors:
        advance_rows(token, slots, last, rows, backend=backend)
        return (*changed, last)

    def checked(backend: str) -> Tensors:
        for tensor in (*changed, last):
            tensor.zero_()
        return move(backend)

    grown = rows.live[rows.grows_with].split((sizes["segments"], sizes["spans"]))
    ones = torch.ones_like(token)
    truth = (token, ones.expand(3, -1), ones, *grown, token[slots])
    backends = ("reference", *GPU_BACKENDS[args.device])
    differences = check(
        {b: (lambda b=b: checked(b)) for b in backends},
        tuple(part.double() for part in truth),
        torch.float64,
    )
    if any(differences.values()):
        raise SystemExit(f"a number is not exact: {differences}")
    read = [token, slots, *(getattr(rows, f.name) for f in dataclasses.fields(rows))]
    written = [*changed, last]
    finish(
        args,
        "advance_rows",
        sizes,
        {b: (lambda b=b: move(b)) for b in backends},
        rows=sizes["rows"],
        flops=0.0,
        moved=float(sum(t.numel() * t.element_size() for t in read + written)),
        note="every number read once, those that change written once",
        differences=differences,
    )


if __name__ == "__main__":
    main()
