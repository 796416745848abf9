"""Counters of the engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PHASES = ("schedule", "forward", "sample", "commit", "text")


@dataclass(slots=True, kw_only=True)
class EngineStats:
    """Totals since the engine was made or `reset` was called."""

    requests: int = 0
    """Prompts given."""
    paths: int = 0
    """Paths finished."""
    cancelled_paths: int = 0
    """Paths that a controller made needless, before or after they had begun."""
    generated_tokens: int = 0
    """Tokens sampled."""
    cancelled_tokens: int = 0
    """Tokens sampled for cancelled paths; part of ``generated_tokens``."""
    prompt_tokens: int = 0
    """Prompt tokens, counted once per path: what an engine without sharing would prefill."""
    prefilled_tokens: int = 0
    """Tokens whose keys and values were computed for prompts, scoring or recomputation."""
    recomputed_tokens: int = 0
    """Generated tokens prefilled again after a preemption; part of ``prefilled_tokens``."""
    preemptions: int = 0
    """Paths whose pages were taken away."""
    steps: int = 0
    """Forward passes."""
    dropped_tokens: int = 0
    """Tokens drawn for paths that had ended by then, or were cancelled: the price of launching a
    step before the last one is read. Not in ``generated_tokens``."""
    kv_bytes_per_token: int = 0
    """Bytes of keys and values of one token over all layers."""
    peak_pages: int = 0
    """Most pages in use at once."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """Wall time per phase of a step."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to ``seconds[name]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def move(self, source: str, target: str, seconds: float) -> None:
        """Count seconds of one phase as another's, where one call did the work of both."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def reset(self) -> None:
        """Set every counter but ``kv_bytes_per_token`` to zero."""
        fresh = EngineStats(kv_bytes_per_token=self.kv_bytes_per_token)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def as_dict(self) -> dict[str, float | int | dict[str, float]]:
        """Counters with the derived figures, for JSON and people."""
        busy = sum(self.seconds.values())
        saved = max(0, self.prompt_tokens - (self.prefilled_tokens - self.recomputed_tokens))
        return {
            "requests": self.requests,
            "paths": self.paths,
            "cancelled_paths": self.cancelled_paths,
            "generated_tokens": self.generated_tokens,
            "cancelled_tokens": self.cancelled_tokens,
            "tokens_per_s": self.generated_tokens / busy if busy else 0.0,
            "prompt_tokens": self.prompt_tokens,
            "prefilled_tokens": self.prefilled_tokens,
            "recomputed_tokens": self.recomputed_tokens,
            "prefill_tokens_saved": saved,
            "kv_bytes_saved": saved * self.kv_bytes_per_token,
            "preemptions": self.preemptions,
            "steps": self.steps,
            "dropped_tokens": self.dropped_tokens,
            "peak_pages": self.peak_pages,
            "seconds": dict(self.seconds),
        }
