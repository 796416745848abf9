r"""Whether the words that follow a number leave its value alone.

A tail drops out if it is, in this order:

1. nothing;
2. a unit that stood in ``\text{}``: words and symbols, with powers;
3. a remark: ``, because ...``, ``(since ...)``;
4. words after a blank or a hyphen. Going from left to right: a word that makes another value of
   the number (`_OPAQUE`) refuses; a word that ends the clause (`_ENDS`) accepts unless another
   quantity follows; another quantity refuses; a single letter must be the symbol of a unit right
   after the number, or an article; anything that is neither a word nor a product of units refuses.
"""

from __future__ import annotations

import re

from fastsi.vote.clean import UNIT
from fastsi.vote.words import PARTS, PLURAL_PARTS, SCALES, words_prefix

_words = str.split
_UNIT_LETTERS = frozenset("mgshlLJNWVKCFA")
"""Symbols that are a unit when they stand alone after a blank."""

_OPAQUE = frozenset(
    _words(
        "pi sqrt root log ln sin cos tan exp mod plus minus squared cubed factorial choose divided "
        "multiplied or dozen dozens hundreds thousands millions billions trillions lakhs crores "
        "point over"
    )
) | {*PARTS, *PLURAL_PARTS, *SCALES}
"""Words that make another value or an expression of the number before them."""

_ENDS = frozenset(
    _words(
        "in on at for after before because since when while as with so that which who than per "
        "each every if from of but not and &"
    )
)
"""Words that end the clause; unless another quantity follows, the rest does not matter."""

_WORD = re.compile(r"[A-Za-z][A-Za-z'.-]*")
_UNIT = re.compile(r"([A-Za-z]+)(?:\^?-?[1-4])?")
_YEAR = re.compile(r"[12][0-9]{3}")
_BRACKETS = re.compile(r",? \(([^()]*)\)")
_CONDITION = re.compile(r"mod|(?:or|and)(?![A-Za-z0-9_])")
_REMARK = re.compile(r"(?:,|;|:| -) ((?!and(?![A-Za-z0-9_])|or(?![A-Za-z0-9_]))[A-Za-z]{2})")
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
        words = _join_units(tail[1:]).split()
        return all(_WORD.fullmatch(word) or _is_unit(word, in_text=True) for word in words)
    if tail[0] in ",;: ":
        brackets = _BRACKETS.fullmatch(tail)
        if brackets is not None and not _CONDITION.match(brackets[1]):
            return True
        if _REMARK.match(tail):
            return True
    if tail[0] == "-":
        return len(tail) > 2 and tail[1:3].isalpha() and _words_drop_out(tail[1:].split())
    return tail[0] == " " and _words_drop_out(_join_units(tail).split())


def _join_units(tail: str) -> str:
    """``m / s`` as one word."""
    return tail.replace(" / ", "/").replace(" * ", "*") if " / " in tail or " * " in tail else tail


def _is_unit(word: str, in_text: bool = False) -> bool:
    """``cm^2``, ``m/s``, ``kg*m/s^2``: a single letter must be the symbol of a unit."""
    for factor in word.replace("*", "/").split("/"):
        unit = _UNIT.fullmatch(factor)
        if unit is None:
            return False
        if len(unit[1]) == 1 and unit[1] not in _UNIT_LETTERS and not in_text:
            return False
    return True


def _words_drop_out(words: list[str]) -> bool:
    for at, word in enumerate(words[:_MAX_WORDS]):
        bare = word.strip(",.;:()!?'\"")
        lower = bare.lower()
        following = words[at + 1] if at + 1 < len(words) else ""
        if at > 0 and lower in ("squared", "cubed"):  # "5 cm squared", not "5 squared"
            continue
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
        elif not _WORD.fullmatch(bare) and not _is_unit(bare):
            return False
        if word[-1] in ",;:" and following:
            return not _is_quantity(following)
    return True


def _stands_alone(letter: str, words: list[str], at: int) -> bool:
    """A single letter is a unit right after the number, or an article before another word."""
    if at == 0 and letter in _UNIT_LETTERS:
        return True
    if letter in "CFK" and at > 0 and words[at - 1] == "degrees":
        return True
    return letter in "aI" and at + 1 < len(words)


def _is_quantity(word: str) -> bool:
    """Whether a word starts another number, so that the first one is not the whole answer."""
    if not word:
        return False
    return word in ("a", "an") or word[0] in "0123456789.+-\\" or words_prefix(word) is not None
