"""Votes from token ids, without making a text of them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from fastsi.vote.extract import reference_answer_key

if TYPE_CHECKING:  # torch is loaded where tokens are voted on, not where texts are
    import torch

    from fastsi.ops import AnswerVotes, TokenBytes, VoteOptions


def vote_answers(
    tokens: torch.Tensor,
    path_indptr: torch.Tensor,
    group_indptr: torch.Tensor,
    table: TokenBytes,
    *,
    options: VoteOptions | None = None,
    logprobs: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    backend: str = "auto",
) -> AnswerVotes:
    """`fastsi.ops.vote_answers` with `answer_key` as the definition of a path's key.

    Arguments and errors as there. ``result.to_votes()`` gives one `fastsi.types.Vote` per group,
    equal to `vote` of the group's texts.
    """
    from fastsi import ops

    options = options or ops.VoteOptions()
    answer_key = functools.partial(
        reference_answer_key,
        extractor=options.extractor,
        last_number=options.last_number,
        run_on=options.run_on,
    )
    return ops.vote_answers(
        tokens,
        path_indptr,
        group_indptr,
        table,
        answer_key=answer_key,
        options=options,
        logprobs=logprobs,
        weights=weights,
        backend=backend,
    )
