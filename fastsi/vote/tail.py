"""Whether the words that follow a number leave its value alone."""

from __future__ import annotations

import re

from fastsi.vote.clean import UNIT
from fastsi.vote.number import words_prefix

_words = str.split
_UNIT_LETTERS = frozenset("mgshlLJNWVKCFA")
"""Symbols that are a unit when they stand alone after a blank."""

_OPAQUE = frozenset(
    _words(
        "pi sqrt root log ln sin cos tan exp mod plus minus squared cubed factorial choose divided "
        "multiplied or dozen dozens half halves third thirds quarter quarters hundredths tenths"
    )
)
"""Words that make another value or an expression of the number before them."""

_ENDS = frozenset(
    _words(
        "in on at for after before because since when while as with so that which who than per "
        "each every if from of but not and &"
    )
)
"""Words that end the clause; unless another quantity follows, the rest does not matter."""

_WORD = re.compile(r"[A-Za-z][A-Za-z'.-]*")
_UNIT_POWER = re.compile(r"[A-Za-z]+(?:\^?-?[1-4])?(?:[/*][A-Za-z]+(?:\^?-?[1-4])?)*")
_YEAR = re.compile(r"[12][0-9]{3}")
_REMARK = re.compile(
    r",? \((?!mod|or\b|and\b)[^()]*\)|(?:,|;|:| -) (?!and\b|or\b|x\b)[A-Za-z]{2}.*"
)
_MAX_WORDS = 40


def drops_out(tail: str) -> bool:
    """Whether ``tail``, what follows a number in a cleaned span, is a unit or a remark.

    ``" apples"``, ``" cm^2"``, ``" km/h"``, ``"-inch"``, ``", because"``, ``" (since ...)"`` and
    ``" in 2020"`` are; ``"t"``, ``" x"``, ``" or 6"``, ``" pi"`` and ``" hours and 30 minutes"``
    are not.
    """
    if not tail:
        return True
    if tail[0] == UNIT:
        return not any(char.isdigit() for char in tail)
    if _REMARK.fullmatch(tail):
        return True
    if tail[0] == "-":
        return tail[1:3].isalpha() and len(tail) > 2 and _words_drop_out(tail[1:].split())
    return tail[0] == " " and _words_drop_out(tail.split())


def _words_drop_out(words: list[str]) -> bool:
    for at, word in enumerate(words[:_MAX_WORDS]):
        bare = word.strip(",.;:()!?'\"")
        lower = bare.lower()
        following = words[at + 1] if at + 1 < len(words) else ""
        if lower in _OPAQUE:
            return False
        if lower in _ENDS:
            in_year = lower == "in" and _YEAR.match(following) is not None
            return in_year or not _is_quantity(following)
        if _is_quantity(word) and lower not in ("a", "an", "one"):
            return False
        if len(bare) == 1:
            if not _stands_alone(bare, words, at):
                return False
        elif not _WORD.fullmatch(bare) and not _UNIT_POWER.fullmatch(bare):
            return False
        if word[-1] in ",;:" and following:
            return not _is_quantity(following)
    return True


def _stands_alone(letter: str, words: list[str], at: int) -> bool:
    """A single letter is a unit right after the number, or an article before another word."""
    if at == 0 and letter in _UNIT_LETTERS:
        return True
    if letter in "CFK" and words[at - 1] == "degrees":
        return True
    return letter in "aI" and at + 1 < len(words)


def _is_quantity(word: str) -> bool:
    """Whether a word starts another number, so that the first one is not the whole answer."""
    if not word:
        return False
    return word in ("a", "an") or word[0] in "0123456789.+-\\" or words_prefix(word) is not None
