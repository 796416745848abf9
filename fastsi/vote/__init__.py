"""From response texts to a vote: extraction, canonical keys, majority, equations of a path."""

from fastsi.types import EXTRACTORS, RUN_ON_MARKS
from fastsi.vote.equations import Equation, equation_is_true, equation_list, equations
from fastsi.vote.extract import answer_key, answer_keys
from fastsi.vote.key import key_of_answer
from fastsi.vote.kinds import kind_of, render
from fastsi.vote.majority import majority, vote, weighted_vote
from fastsi.vote.stopping import VoteController, decide, parse_rule, replay
from fastsi.vote.symbolic import SymbolicMerger, merged_keys
from fastsi.vote.tokens import vote_answers
from fastsi.vote.weights import SCHEMES, WeightConfig, path_weights, token_confidences

__all__ = [
    "EXTRACTORS",
    "RUN_ON_MARKS",
    "SCHEMES",
    "Equation",
    "SymbolicMerger",
    "VoteController",
    "WeightConfig",
    "answer_key",
    "answer_keys",
    "decide",
    "equation_is_true",
    "equation_list",
    "equations",
    "key_of_answer",
    "kind_of",
    "majority",
    "merged_keys",
    "parse_rule",
    "path_weights",
    "render",
    "replay",
    "token_confidences",
    "vote",
    "vote_answers",
    "weighted_vote",
]
