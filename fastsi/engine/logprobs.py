"""Log-probs besides those of drawn tokens: of the likeliest ones, and of given continuations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from fastsi import ops
from fastsi.engine.plan import Step
from fastsi.engine.requests import PathState
from fastsi.engine.rows import Int, RowTable
from fastsi.engine.sampler import Drawn
from fastsi.engine.staging import Array, to_device
from fastsi.types import Logprob

_Entry = tuple[list[int], list[float], int]
"""Token ids, log-probs, and the rank of the given token."""


class Likeliest(NamedTuple):
    """The likeliest tokens beside some draws of a step, maybe still being found."""

    of: Int
    """int64 [T], in host memory: which of the step's drawing slots they belong to."""
    found: ops.TopLogprobs


def launch_likeliest(
    logits: torch.Tensor, table: RowTable, slots: Int, drawn: Drawn
) -> Likeliest | None:
    """Look for as many likely tokens as the paths at ``slots`` ask for; waits for nothing.

    Args:
        logits: [L, vocab], those that were drawn from.
        table: the slots' settings.
        slots: int64 [D], table slots.
        drawn: their tokens.

    Returns:
        None: no path asks for any.
    """
    of = np.flatnonzero(table.top_count[slots] >= 0)
    if not len(of):
        return None
    count = min(int(table.top_count[slots[of]].max()), logits.shape[1])
    at = to_device({"at": drawn.at[of]}, logits.device)["at"]
    return Likeliest(of, ops.top_logprobs(logits, drawn.token[at], count, row_index=drawn.rows[at]))


def note_likeliest(
    table: RowTable,
    slots: Int,
    tokens: Int,
    logprobs: Array,
    of: Int,
    found: Sequence[Array],
) -> None:
    """Append to paths what `launch_likeliest` found.

    Args:
        table: of the slots.
        slots: int64 [D], table slots.
        tokens: int64 [D], drawn.
        logprobs: [D], as reported.
        of: int64 [T], which of them ``found`` is of.
        found: `ops.TopLogprobs` of T rows, in host memory.
    """
    rows = (slots[of], tokens[of], logprobs[of], table.top_count[slots[of]])
    for slot, token, own, count, entry in zip(
        *(part.tolist() for part in rows), _entries(found), strict=True
    ):
        path = table.paths[slot]
        assert path is not None
        path.top.append(_listed(token, own, count, *entry))


def note_run(
    table: RowTable, slots: Int, tokens: Int, logprobs: Array, top: ops.TopLogprobs
) -> None:
    """`note_likeliest` for the steps of a `DecodeRun`.

    Args:
        table: of the slots.
        slots: int64 [D], table slots.
        tokens: int64 [N, D], drawn.
        logprobs: [N, D], as reported.
        top: [N, D] and more, of all slots.
    """
    of = np.flatnonzero(table.top_count[slots] >= 0)
    found = [part.numpy() for part in top]
    for step, (drawn, own) in enumerate(zip(tokens, logprobs, strict=True)):
        note_likeliest(table, slots, drawn, own, of, [part[step][of] for part in found])


def score_given(step: Step, logits: torch.Tensor) -> None:
    """Log-probs of given continuations, from the rows before each of their tokens.

    Args:
        step: one that may hold some.
        logits: [L, vocab], the step's.
    """
    parts = _given(step)
    if not parts:
        return
    rows = np.concatenate([np.asarray(rows) for _, rows, _ in parts])
    tokens = np.concatenate([np.asarray(tokens) for _, _, tokens in parts])
    sent = to_device({"rows": rows, "tokens": tokens}, logits.device)
    own = score_tokens(logits, sent["rows"], sent["tokens"]).double().tolist()
    asked = [path.top_count for path, _, _ in parts if path.top_count is not None]
    listed: list[_Entry] = []
    if asked:
        count = min(max(asked), logits.shape[1])
        found = ops.top_logprobs(logits, sent["tokens"], count, row_index=sent["rows"])
        listed = _entries([part.cpu().numpy() for part in found])
    begin = 0
    for path, _, mine in parts:
        end = begin + len(mine)
        path.logprobs += own[begin:end]
        if path.top_count is not None:
            path.top += [
                _listed(token, own[at], path.top_count, *listed[at])
                for at, token in enumerate(mine, start=begin)
            ]
        begin = end


def _given(step: Step) -> list[tuple[PathState, Sequence[int], list[int]]]:
    """Paths, rows of the logits, and the tokens whose log-probs these rows give."""
    found: list[tuple[PathState, Sequence[int], list[int]]] = []
    for chunk, rows in zip(step.chunks, step.chunk_logits, strict=True):
        found += [(path, rows[-1:], path.tokens[:1]) for path in chunk.scores]
        given = chunk.path
        if given is not None and given.forced:
            after = given.filled + 1
            found.append((given, rows, given.tokens[after : after + len(rows)]))
    return found


def score_tokens(
    logits: torch.Tensor, row_index: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Natural-log probabilities of ``tokens`` [D] under rows ``row_index`` of ``logits``.

    A greedy draw knows the log-prob of the first maximum in one pass over the row; that of another
    token is lower by the difference of the two logits.
    """
    best = ops.sample_tokens(logits, _greedy(logits.shape[0], logits.device), check=False)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    top = logits.gather(1, best.token.clamp(min=0)[:, None])[:, 0].to(wide)
    below = logits[row_index, tokens.clamp(min=0)].to(wide) - top[row_index]
    return best.logprob_full[row_index] + below


_greedy = functools.lru_cache(maxsize=64)(ops.SampleParams.greedy)
"""Most steps have as many rows as one before."""


def _entries(found: Sequence[Array]) -> list[_Entry]:
    """Row by row."""
    ids, logprobs, ranks = (part.tolist() for part in found)
    return list(zip(ids, logprobs, ranks, strict=True))


def _listed(
    token: int, own: float, count: int, ids: list[int], logprobs: list[float], rank: int
) -> dict[int, Logprob]:
    """The token itself first, then the likeliest, without saying it twice."""
    found = {token: Logprob(own, rank)}
    for place, (other, logprob) in enumerate(zip(ids[:count], logprobs[:count], strict=True), 1):
        found.setdefault(other, Logprob(logprob, place))
    return found
