"""Several tokens for each decoding path in one call of the extension.

While no path begins or ends, a step differs from the one before it in a token, a position and a
KV slot per row. Python between two steps takes a millisecond, more than a small model's pass of
few rows, so the extension makes the steps that follow each other and gives their tokens back at
once. The paths are the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastsi import ops
from fastsi.engine.attention import StepContext, host_plan
from fastsi.engine.kv_pool import KVPool
from fastsi.engine.plan import Step
from fastsi.engine.rows import RowTable

MOST_LISTED = 64
"""Likely tokens per token: lists that are longer are made step by step, since a run holds them."""
SECONDS = 0.5
"""A run begins no step later, since an interrupt is heard only after it."""


@dataclass(frozen=True, slots=True, eq=False)
class StopSearch:
    """Arguments of `ops.match_stop` besides the tokens, and its result."""

    slots: torch.Tensor
    table: ops.TokenBytes
    rules: ops.StopRules
    state: ops.StopState
    hit: torch.Tensor
    """uint8 [R], of the last step."""


@dataclass(slots=True, eq=False)
class DecodeRun:
    """How up to N tokens are drawn for each of R rows, and what came of it."""

    params: ops.SampleParams
    """Of the first draw; the extension moves positions on."""
    drawn: ops.SampledTokens
    """Fields [N, R], of which the first ``steps`` rows are written."""
    end_indptr: torch.Tensor
    """int64 [R + 1]: row r's path ends at the tokens ``end_ids[end_indptr[r]:end_indptr[r + 1]]``;
    a step that draws one of them is the last."""
    end_ids: torch.Tensor
    """int64."""
    search: StopSearch | None
    """Finds texts that may end: the step that completes one is the last. Has seen all tokens."""
    top_count: int = -1
    """Likely tokens that paths ask for at most; -1: none does."""
    top: ops.TopLogprobs | None = None
    """Fields [N, R, count] and [N, R], of all rows if one asks."""
    steps: int = 0
    draw_seconds: float = 0.0
    """Part of the call's time that no pass took."""

    @property
    def most(self) -> int:
        """N."""
        return self.drawn.token.shape[0]

    def make_room(self, vocab: int) -> None:
        """Set `top`, for logits of ``vocab`` tokens."""
        if self.top_count >= 0:
            shape = *self.drawn.token.shape, min(self.top_count, vocab)
            ids, ranks = torch.empty(shape, dtype=torch.int64), torch.empty_like(self.drawn.token)
            self.top = ops.TopLogprobs(ids, torch.empty(shape), ranks)


def give_ahead(table: RowTable, pool: KVPool, page_size: int, count: int) -> int:
    """Give decoding paths pages for up to ``count`` tokens from now on, those of this step too.

    Never beyond the end of a path, and only from pages that nobody may have to ask back: for each
    path another page stays free.

    Returns:
        For how many tokens each path has pages now, at least 1.
    """
    slots = table.active
    num_out = table.num_out[slots]
    count = min(count, page_size, int((table.limit[slots] - num_out).min()))
    short = slots[(num_out + count - 2) // page_size >= table.num_pages[slots]]
    if len(short) + len(slots) > pool.num_free:
        return 1
    table.append_page_each(short, pool.allocate(len(short)))
    return count


def inputs(step: Step, pool: KVPool) -> tuple[torch.Tensor, torch.Tensor, StepContext]:
    """Tokens and positions [R] of the first step, of decode rows alone, and what it attends to.

    The plan has an entry for the page that `give_ahead` may have given each path.
    """
    rows = step.rows(spare_pages=1)
    context = StepContext.over(pool, torch.from_numpy(rows.slots), host_plan(rows.segments))
    return torch.from_numpy(rows.input_ids), torch.from_numpy(rows.positions), context
