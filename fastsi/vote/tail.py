"""Whether the words that follow a number leave its value alone."""

from __future__ import annotations

import re

from fastsi.vote.clean import UNIT
from fastsi.vote.number import words_prefix

_UNIT_LETTERS = frozenset("mgshlLJNWVKCFA")
"""Symbols that are a unit when they stand alone after a blank."""

_OPAQUE = frozenset(
    "pi sqrt root log ln sin cos tan exp mod over plus minus squared cubed factorial choose divided "
    "multiplied or to by power dozen dozens score gross half halves third thirds quarter quarters "
    "hundred thousand million billion trillion hundredths tenths degrees? e".split()
)
"""Words that make another value or an expression of the number."""

_JOINS = frozenset(("and", "&", "plus"))
_ENDS = frozenset(
    "in on at for after before because since when while as with so that which who than per each "
    "every if from but not".split()
)
"""Words that end the clause: what follows them does not belong to the quantity."""

_WORD = re.compile(r"[A-Za-z][A-Za-z'.-]*")
_UNIT_POWER = re.compile(r"[A-Za-z]+(?:\^?-?[1-4])?(?:[/*][A-Za-z]+(?:\^?-?[1-4])?)*")
_YEAR = re.compile(r"[12][0-9]{3}")
_REMARK = re.compile(r",? \((?!mod|or\b|and\b)[^()]*\)|(?:,|;|:| -|\.) (?!and\b|or\b|x\b)[A-Za-z]{2}.*")
_MAX_WORDS = 40


def drops_out(tail: str) -> bool:
    """Whether ``tail``, what follows a number in a cleaned span, is a unit or a remark.

    ``" apples"``, ``" cm^2"``, ``" km/h"``, ``", because"``, ``" (since ...)"`` and ``" in 2020"`` are;
    ``"t"``, ``" x"``, ``" or 6"``, ``" pi"`` and ``" hours and 30 minutes"`` are not.
    """
    if not tail:
        return True
    if tail[0] == UNIT:
        return not any(char.isdigit() for char in tail)
    if _REMARK.fullmatch(tail):
        return True
    if tail[0] == "-":
        return _word_tail(tail[1:].split()) if re.match(r"-[A-Za-z]{2,}", tail) else False
    if tail[0] != " ":
        return False
    return _word_tail(tail.split())


def _word_tail(words: list[str]) -> bool:
    for at, word in enumerate(words[:_MAX_WORDS]):
        bare = word.strip(",.;:()!?'\"")
        lower = bare.lower()
        following = words[at + 1] if at + 1 < len(words) else ""
        if lower in _OPAQUE:
            return False
        if lower in _JOINS:
            return not _is_quantity(following)
        if lower in _ENDS or lower == "of":
            return not _is_quantity(following) or lower == "in" and bool(_YEAR.match(following))
        if len(bare) == 1 and not _stands_alone(bare, at, words):
            return False
        if not _WORD.fullmatch(bare) and not _UNIT_POWER.fullmatch(bare):
            return False
        if at and (bare[:1].isdigit() or words_prefix(lower) and lower not in ("a", "an", "one")):
            return False
        if word[-1:] in ",;:(" and at + 1 < len(words) and not _is_quantity(following):
            return True
    return True


def _stands_alone(letter: str, at: int, words: list[str]) -> bool:
    """A single letter is a unit right after the number, or an article before another word."""
    if at == 0 and letter in _UNIT_LETTERS:
        return True
    if letter in "CFK" and words[at - 1] == "degrees":
        return True
    return letter in "aI" and at + 1 < len(words)


def _is_quantity(word: str) -> bool:
    """Whether a word starts another number, so that the first one is not the whole answer."""
    return bool(word) and (word[0] in "0123456789.-+$a" and word in ("a", "an") or not word[0].isalpha() or words_prefix(word.lower()) is not None)
