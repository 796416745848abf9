"""What `vote_answers` takes besides tokens, and what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fastsi.errors import ConfigError
from fastsi.types import EXTRACTORS, RUN_ON_MARKS, Vote, check_known


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteOptions:
    """How answers are found and which paths are kept."""

    extractor: str = "auto"
    """One of ``fastsi.vote.EXTRACTORS``."""
    last_number: bool = False
    """Fall back to the last number of a path."""
    run_on: tuple[str, ...] = RUN_ON_MARKS
    """Words that, with a colon, begin another question."""
    min_lead: int = 1
    """Keep paths of a group whose winner leads by this many votes."""
    min_share: float = 0.0
    """Keep paths of a group whose winner has this share of it."""

    def __post_init__(self) -> None:
        check_known([self.extractor], EXTRACTORS, "extractor")
        if "" in self.run_on:
            raise ConfigError("run_on: holds an empty word; give the words that begin a question")
        if math.isnan(self.min_share):
            raise ConfigError("min_share=nan: must be a number")


@dataclass(frozen=True, slots=True, eq=False)
class AnswerVotes:
    """Votes of G groups over N paths. Weights are votes where no weights were given."""

    keys: list[str]
    """Distinct canonical keys, in order of their first path."""
    key_id: torch.Tensor
    """int32 [N]: index into ``keys`` of each path's answer; -1 where it abstained."""
    keep: torch.Tensor
    """bool [N]: the path gave its group's winner, and the group is decided clearly enough."""
    winner: torch.Tensor
    """int32 [G]: index into ``keys``; -1 where every path abstained."""
    votes: torch.Tensor
    """int32 [G]: paths with an answer."""
    share: torch.Tensor
    """float64 [G]: weight of the winner per path, abstaining ones included."""
    margin: torch.Tensor
    """int32 [G]: votes of the winner minus the most votes of another answer."""
    entropy: torch.Tensor
    """float64 [G]: of the answers' shares in nats, over the paths that voted."""
    tie: torch.Tensor
    """bool [G]: the winner was settled by a tie rule."""
    answer_indptr: torch.Tensor
    """int64 [G + 1]: group g's answers, best first, are ``answer_*[indptr[g]:indptr[g + 1]]``."""
    answer_key: torch.Tensor
    """int32 [A]: index into ``keys``."""
    answer_count: torch.Tensor
    """int32 [A]: votes."""
    answer_weight: torch.Tensor
    """float64 [A]: summed weights."""
    group_indptr: torch.Tensor
    """int64 [G + 1]: group g's paths are [indptr[g], indptr[g + 1])."""
    weighted: bool = False
    """Whether paths had weights."""

    def to_votes(self, stop_reason: str = "full") -> list[Vote]:
        """One `fastsi.types.Vote` per group."""
        named: list[str | None] = [*self.keys, None]  # -1 is the last
        path_keys = [named[index] for index in self.key_id.tolist()]
        answers = [self.keys[index] for index in self.answer_key.tolist()]
        counts, weights = self.answer_count.tolist(), self.answer_weight.tolist()
        bounds, paths = self.answer_indptr.tolist(), self.group_indptr.tolist()
        found = []
        for group, winner in enumerate(self.winner.tolist()):
            span = slice(bounds[group], bounds[group + 1])
            first, last = paths[group], paths[group + 1]
            found.append(
                Vote(
                    winner=named[winner],
                    counts=dict(zip(answers[span], counts[span], strict=True)),
                    n=last - first,
                    votes=int(self.votes[group]),
                    share=float(self.share[group]),
                    margin=int(self.margin[group]),
                    entropy=float(self.entropy[group]),
                    tie=bool(self.tie[group]),
                    stop_reason=stop_reason,
                    keys=tuple(path_keys[first:last]),
                    weights=dict(zip(answers[span], weights[span], strict=True))
                    if self.weighted
                    else None,
                )
            )
        return found
