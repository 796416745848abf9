"""From response texts to a vote: extraction, canonical keys, majority, equations of a path."""

from fastsi.vote.extract import EXTRACTORS, answer_key
from fastsi.vote.key import key_of_answer, kind_of, render
from fastsi.vote.majority import majority, vote
from fastsi.vote.marks import RUN_ON_MARKS

__all__ = [
    "EXTRACTORS",
    "RUN_ON_MARKS",
    "answer_key",
    "key_of_answer",
    "kind_of",
    "majority",
    "render",
    "vote",
]
