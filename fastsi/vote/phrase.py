r"""Numbers within words and equations: ``about 18 apples``, ``x = 5``, ``Tom has 5 apples``."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from fastsi.vote import dates
from fastsi.vote.compound import is_enclosed
from fastsi.vote.number import number_body, number_prefix
from fastsi.vote.tail import drops_out
from fastsi.vote.words import words_prefix

_ABOUT = re.compile(
    r"(?:(?:that|is|are|was|equals|equal to|exactly|precisely|only|just|about|around|roughly|nearly"
    r"|approximately|approx\.?|a total of|in total|at|usd|rs|inr|eur|gbp) |rs\. ?|= ?|~ ?)+",
    re.IGNORECASE,
)


def read_number_phrase(span: str) -> str | None:
    """A date, a time, or a number with a unit or words that do not change it."""
    about = _ABOUT.match(span)
    if about is not None:
        span = span[about.end() :]
    key = dates.read_date(span) or dates.read_time(span)
    if key is not None:
        return key
    found = number_prefix(span) or words_prefix(span)
    if found is None or not drops_out(span[found[1] :]):
        return None
    return _number_key(found[0])


def _number_key(value: Fraction) -> str | None:
    body = number_body(value)
    return None if body is None else "num:" + body


# Possessive quantifiers (``++``) keep these linear: a word is never cut in two.
_SYMBOL = re.compile(r"[A-Za-z](?:_[A-Za-z0-9]+)?(?:\([A-Za-z0-9]\))?|\\[a-z]+")
_NAME = re.compile(r"[A-Za-z]{2,}+(?: [A-Za-z]{2,}+){0,5}")
_ARITHMETIC = re.compile(r"(?:[0-9.,%() +*/-]|[A-Za-z]{2,}+)++")
_MEMBER_OF = re.compile(r"[A-Za-z] ?\\in(?![A-Za-z]) ?(?=.)")
_ANSWER_IS = re.compile(
    r"(?:the |my |our )?(?:final |correct )?answer(?: is|:) ?(?=.)", re.IGNORECASE
)
_POINT = re.compile(
    r"(?:the )?(?:points?|coordinates|ordered pair|pair|vector|interval|set) (?=[(\[{])",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"((?:[A-Za-z][A-Za-z'-]* ){1,12}?)(?:is|are|was|were|be|equals|has|have|had|makes?|made|earns?"
    r"|earned|costs?|gets?|got|needs?|needed|spends?|spent|pays?|paid|takes?|took|left|sold|bought"
    r"|total) (?:(?:about|exactly|only|just|approximately|now|still|a total of) )*(?=[-+.0-9])"
)
_words = str.split
_CHANGES = frozenset(_words("not least most more less fewer than between from over under if never"))

Part = Callable[[str], str | None]


def read_phrase(span: str, part: Part) -> str | None:
    """``x = 5``, ``2 + 3 = 5``, ``x \\in [0, 1)``, ``the point (1, 2)``, ``Tom has 5 apples``."""
    if "=" in span:
        return _read_equation(span, part)
    start = _MEMBER_OF.match(span) or _ANSWER_IS.match(span) or _POINT.match(span)
    if start is not None:
        return part(span[start.end() :])
    sentence = _SENTENCE.match(span)
    if sentence is None or not _CHANGES.isdisjoint(sentence[1].lower().split()):
        return None
    return read_number_phrase(span[sentence.end() :])


def _read_equation(span: str, part: Part) -> str | None:
    """The value that a chain of equal sides comes to; None if unknowns stand on both sides."""
    *sides, last = (side.strip() for side in span.split("="))
    if not last or last[0] in "<>" or not all(sides) or sides[-1][-1] in "<>!":
        return None
    if _is_name(sides[0]):
        sides = sides[1:]
    if not all(map(_ARITHMETIC.fullmatch, sides)):
        return None
    key = part(last)
    if not sides or (key is not None and not key.startswith("text:")):
        return key
    # "18 = 9 * 2", "18 = x": the number is on the left.
    named = _ARITHMETIC.fullmatch(last) or _SYMBOL.fullmatch(last)
    return read_number_phrase(sides[0]) if named else None


def _is_name(side: str) -> bool:
    """``x``, ``f(x)``, ``total cost``, ``(x, y)``."""
    if _SYMBOL.fullmatch(side) or _NAME.fullmatch(side):
        return True
    if side[0] != "(" or not is_enclosed(side):
        return False
    return all(_SYMBOL.fullmatch(name.strip()) for name in side[1:-1].split(","))
