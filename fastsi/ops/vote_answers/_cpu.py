"""C++ backend of `vote_answers`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fastsi import _ext
from fastsi.ops._view import view
from fastsi.ops.token_bytes import TokenBytes
from fastsi.ops.vote_answers.result import AnswerVotes, VoteOptions
from fastsi.types import EXTRACTORS

_C = _ext.core()


def vote_answers(
    tokens: torch.Tensor,
    path_indptr: torch.Tensor,
    group_indptr: torch.Tensor,
    table: TokenBytes,
    answer_key: Callable[[str], str | None],
    options: VoteOptions,
    logprobs: torch.Tensor | None,
    weights: torch.Tensor | None,
) -> AnswerVotes:
    """See `fastsi.ops.vote_answers`."""
    tokens, path_indptr = tokens.contiguous(), path_indptr.contiguous()
    group_indptr = group_indptr.contiguous()
    key_id = torch.empty(path_indptr.shape[0] - 1, dtype=torch.int32)
    extract = _C.ExtractOptions(
        EXTRACTORS.index(options.extractor), options.last_number, list(options.run_on)
    )
    keys, host = _C.read_path_answers(
        view(tokens),
        view(path_indptr),
        [view(table.data), view(table.offsets), view(table.flags)],
        table.strip_first_blank,
        extract,
        view(key_id),
        torch.get_num_threads(),
    )
    if host:
        keys = _add_keys(keys, key_id, {path: answer_key(text) for path, text in host})
    return _tally(keys, key_id, group_indptr, options, logprobs, weights)


def _add_keys(keys: list[str], key_id: torch.Tensor, found: dict[int, str | None]) -> list[str]:
    """Enter the keys of the paths that C++ left over; in ``key_id`` too, which changes in place."""
    known = {key: index for index, key in enumerate(keys)}
    ids = key_id.tolist()
    for path, key in found.items():
        if key is not None:
            ids[path] = known.setdefault(key, len(known))
    order = {index: rank for rank, index in enumerate(dict.fromkeys(i for i in ids if i >= 0))}
    key_id.copy_(torch.tensor([order.get(i, -1) for i in ids], dtype=torch.int32))
    names = list(known)
    return [names[index] for index in order]


def _tally(
    keys: list[str],
    key_id: torch.Tensor,
    group_indptr: torch.Tensor,
    options: VoteOptions,
    logprobs: torch.Tensor | None,
    weights: torch.Tensor | None,
) -> AnswerVotes:
    paths, groups = key_id.shape[0], group_indptr.shape[0] - 1
    i32, i64, f64, u8 = torch.int32, torch.int64, torch.float64, torch.uint8
    result = [
        torch.empty(size, dtype=dtype)
        for size, dtype in (
            (paths, u8), (groups, i32), (groups, i32), (groups, f64), (groups, i32), (groups, f64),
            (groups, u8), (groups + 1, i64), (paths, i32), (paths, i32), (paths, f64),
        )
    ]  # fmt: skip
    logprobs, weights = (
        None if values is None else values.contiguous() for values in (logprobs, weights)
    )
    _C.tally_votes(
        view(key_id),
        len(keys),
        view(group_indptr),
        None if logprobs is None else view(logprobs),
        None if weights is None else view(weights),
        options.min_lead,
        options.min_share,
        [view(tensor) for tensor in result],
    )
    keep, winner, votes, share, margin, entropy, tie, indptr, answer, count, weight = result
    answers = int(indptr[-1])
    return AnswerVotes(
        keys=keys,
        key_id=key_id,
        keep=keep.bool(),
        winner=winner,
        votes=votes,
        share=share,
        margin=margin,
        entropy=entropy,
        tie=tie.bool(),
        answer_indptr=indptr,
        answer_key=answer[:answers],
        answer_count=count[:answers],
        answer_weight=weight[:answers],
        group_indptr=group_indptr,
        weighted=weights is not None,
    )
