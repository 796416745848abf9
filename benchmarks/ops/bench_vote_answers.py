"""Votes from token ids: decoding in Python and counting against the fused C++ backend."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vote"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _harness import start
from _ops import fill_sizes, finish, parser
from _responses import responses
from transformers import AutoTokenizer

import fastsi
from fastsi.ops import AnswerVotes, TokenBytes
from fastsi.vote import vote_answers

SIZES = {
    "groups": (64, 4, "questions"),
    "paths": (32, 6, "paths per question"),
    "characters": (400, 60, "length of a path's text"),
    "answers": (5, 3, "different answers"),
}


def main() -> None:
    """Check, time, print."""
    args = parser(__doc__, **SIZES).parse_args()
    start(args)
    sizes = fill_sizes(args)
    count = sizes["groups"] * sizes["paths"]
    base = Path(fastsi.__file__).parent / "assets" / "base"
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = responses(count, characters=sizes["characters"], answers=sizes["answers"], seed=0)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([token for path in ids for token in path], dtype=torch.int32)
    path_indptr = torch.tensor([0, *map(len, ids)]).cumsum(0)
    group_indptr = torch.arange(sizes["groups"] + 1) * sizes["paths"]
    table = TokenBytes.from_tokenizer(tokenizer)

    def run(backend: str) -> AnswerVotes:
        return vote_answers(tokens, path_indptr, group_indptr, table, backend=backend)

    votes = run("reference").to_votes()
    if run("cpu").to_votes() != votes or not all(vote.winner for vote in votes):
        raise SystemExit("cpu: its votes are not those of the reference; not timed")
    spelled = sum(len(text.encode()) for text in texts)
    finish(
        args,
        "vote_answers",
        sizes | {"tokens": tokens.shape[0]},
        {backend: (lambda b=backend: run(b)) for backend in ("reference", "cpu")},
        rows=tokens.shape[0],
        flops=0.0,
        moved=float(tokens.nbytes + 3 * spelled),
        note="tokens read once; what they spell read from the table, written, and read again",
        differences={"reference": 0.0, "cpu": 0.0},
    )


if __name__ == "__main__":
    main()
