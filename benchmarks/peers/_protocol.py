"""What a driver and the benchmark say to each other: one JSON object a line, on pipes.

A driver is a process of its own, in the peer's own environment, so this file needs only the
standard library. It answers ``{"load": {...}}`` with ``{"ready": versions}`` and ``{"run": {...}}``
with seconds and token ids. Whatever a peer prints on standard output goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol


@dataclass(frozen=True)
class Work:
    """One call: every prompt continued by ``n`` paths of exactly ``new_tokens`` tokens."""

    prompts: list[list[int]]
    n: int
    new_tokens: int
    temperature: float
    """0: greedy."""
    seed: int


class Peer(Protocol):
    """What a driver implements."""

    def run(self, work: Work) -> list[list[int]]:
        """New token ids, ``n`` rows per prompt in prompt order."""


def versions(*names: str) -> dict[str, str]:
    """Installed versions of the named distributions."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def serve(load: Callable[[dict[str, Any]], Peer], *packages: str) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    peer: Peer | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "load" in request:
                peer = load(request["load"])
                answer({"ready": versions(*packages)})
            elif peer is not None:
                answer(_timed(peer, Work(**request["run"])))
        except Exception as error:  # a peer may fail in any way; the benchmark reports it
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}"})


def _timed(peer: Peer, work: Work) -> dict[str, Any]:
    begin = time.perf_counter()
    rows = peer.run(work)
    seconds = time.perf_counter() - begin
    peak = _peak_bytes()
    lengths = sorted({len(row) for row in rows})
    return {"seconds": seconds, "rows": rows, "lengths": lengths, "peak_bytes": peak} | (
        getattr(peer, "details", lambda: {})()
    )


def _peak_bytes() -> int:
    """Largest resident size of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
