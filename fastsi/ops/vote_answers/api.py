"""Public face of `vote_answers`: checks and the choice of a backend."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fastsi.ops import _checks, _registry
from fastsi.ops.token_bytes import TokenBytes
from fastsi.ops.vote_answers.result import AnswerVotes, VoteOptions


def vote_answers(
    tokens: torch.Tensor,
    path_indptr: torch.Tensor,
    group_indptr: torch.Tensor,
    table: TokenBytes,
    *,
    answer_key: Callable[[str], str | None],
    options: VoteOptions | None = None,
    logprobs: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    backend: str = "auto",
) -> AnswerVotes:
    """Votes of groups of paths, from the paths' token ids.

    Equal to decoding every path, taking its answer's canonical key, and one
    ``fastsi.vote.majority`` per group. ``fastsi.vote.vote_answers`` supplies ``answer_key``.

    Args:
        tokens: int32 or int64 [T], the tokens of all paths, one path after the other; contiguous.
        path_indptr: int64 [N + 1]; path i holds ``tokens[path_indptr[i]:path_indptr[i + 1]]``.
        group_indptr: int64 [G + 1]; group g holds paths [group_indptr[g], group_indptr[g + 1]).
        table: what the tokens spell.
        answer_key: the definition of a text's key under ``options``. The reference asks it for
            every path, compiled backends for the few they leave to it.
        options: how answers are found and which paths are kept.
        logprobs: float64 [N], summed log-probability of each path, nats; settles ties.
        weights: float64 [N], at least 0; a path's vote weighs this relative to its group's others.
        backend: a name, or "auto".

    Raises:
        ValueError: shapes, dtypes or devices disagree, an indptr does not span its items, a token
            is not in the table, or the weights of a group are all 0, negative or not finite.
        BackendUnavailable: the requested backend cannot run.
    """
    options = options or VoteOptions()
    _checks.require_shape("tokens", tokens, (None,))
    paths = path_indptr.shape[0] - 1 if path_indptr.dim() == 1 else 0
    vectors = (("path_indptr", path_indptr), ("group_indptr", group_indptr))
    for name, tensor in vectors:
        _checks.require_shape(name, tensor, (None,))
        _checks.require_dtype(name, tensor, torch.int64)
        _checks.require_device(name, tensor, tokens.device)
    _require_span("path_indptr", path_indptr, tokens.shape[0])
    _require_span("group_indptr", group_indptr, paths)
    for name, values in (("logprobs", logprobs), ("weights", weights)):
        if values is not None:
            _checks.require_shape(name, values, (paths,))
            _checks.require_dtype(name, values, torch.float64)
            _checks.require_device(name, values, tokens.device)
    run = _registry.choose("vote_answers", _registry.facts(tokens), backend)
    found: AnswerVotes = run(
        tokens, path_indptr, group_indptr, table, answer_key, options, logprobs, weights
    )
    return found


def _require_span(name: str, indptr: torch.Tensor, end: int) -> None:
    if indptr.shape[0] == 0:
        raise ValueError(f"{name}: is empty, must hold at least 0")
    first, last = int(indptr[0]), int(indptr[-1])
    if (first, last) != (0, end):
        raise ValueError(f"{name}: spans [{first}, {last}], must span [0, {end}]")
    if bool((indptr[1:] < indptr[:-1]).any()):
        raise ValueError(f"{name}: must not fall")
