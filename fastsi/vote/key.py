"""Canonical keys: one string per answer, so that equality of answers is equality of strings.

A key is ``kind:body``. In the order in which a cleaned span (`clean.clean`) is tried:

==========  ====================================================  ============================
kind        what it is                                            example of spellings that merge
==========  ====================================================  ============================
``bool``    ``yes`` or ``no``; true and false mean the same       ``Yes.``, ``true``
``choice``  a letter a-j, with or without its text                ``(B)``, ``B. 18``, ``12 (B)``
``matrix``  rows of members                                       ``pmatrix``, ``bmatrix``
``date``    year-month-day                                        ``05/06/2020``, ``May 6, 2020``
``time``    24-hour clock                                         ``3:30 pm``, ``15:30``
``num``     exact rational ``p`` or ``p/q`` in lowest terms       ``0.75``, ``3/4``, ``75e-2``
``ratio``   ``a:b`` in lowest terms                               ``2:4``, ``1:2``
``range``   two rising numbers                                    ``5-7``, ``5 to 7``
``tuple``   ordered, with its brackets                            ``(1,2)``, ``\\left(1, 2\\right)``
``set``     sorted                                                ``{2,1}``, ``1 and 2``, ``1, 2``
``named``   values with their names                               ``y=2, x=1``, ``x=1 and y=2``
``text``    anything else, normalised                             ``Paris``, ``the paris.``
==========  ====================================================  ============================

Rules for ``num``: a percent sign, a currency sign and units drop out (``25%``, ``$25``, ``25 cm``
and ``25`` are one key, ``0.25`` is another). A unit is a whole word after a blank, or anything in
``\\text{}``; a letter glued to a digit is a variable (``3t`` is not 3). Words after a number drop
out up to the end of the clause unless they change the value (``5 or 6``, ``2 pi``, ``2 hours and 30
minutes``). ``x = 5`` and ``2 + 3 = 5`` are 5; an equation in unknowns stays whole. One member in
brackets is that member. A number of more than 4,000 digits that is not a plain integer stays text.
Two fields with a colon are a time of day if they can be one (``3:30``), else a ratio (``3:4``).

`kinds.render` writes a key as an answer that reads back: ``key_of_answer(render(key)) == key``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from fastsi._ext import load
from fastsi.vote import compound
from fastsi.vote.clean import MAX_SPAN, UNIT, clean
from fastsi.vote.number import number_body, number_prefix, read_number, words_prefix
from fastsi.vote.tail import drops_out

_FAST = re.compile(
    r"\s*\$?(-?)\$?([0-9]{1,30}|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.0+)?%?\.?\s*", re.ASCII
)
_FAST_LENGTH = 64
# Possessive (``++``): on a long text that is no integer after all, nothing is tried twice.
_LONG_INTEGER = re.compile(r"\s*\$?([+-]?)\$?([0-9]++|[0-9]{1,3}(?:,[0-9]{3})++)\.?\s*", re.ASCII)
_LONG = 1000
_ROUNDS = 6

_core, _ = load("_C")
# Returns NotImplemented for what it leaves to the reference.
_twin: Callable[[str], Any] | None = None if _core is None else _core.key_of_answer


def key_of_answer(text: str) -> str | None:
    """Canonical key of a bare answer such as ``1,234``, ``(B)`` or ``\\frac12``.

    The C++ twin answers where it can; `reference_key_of_answer` is the definition.

    Returns:
        The key, or None where nothing but blanks and punctuation is left.
    """
    key = NotImplemented if _twin is None else _twin(text)
    return reference_key_of_answer(text) if key is NotImplemented else key


def reference_key_of_answer(text: str) -> str | None:
    """What `key_of_answer` returns, in Python alone."""
    if len(text) <= _FAST_LENGTH:
        match = _FAST.fullmatch(text)
        if match is not None:
            return _integer_key(match[1], match[2])
    elif len(text) > _LONG:
        match = _LONG_INTEGER.fullmatch(text)
        if match is not None:
            return _integer_key(match[1], match[2])
        if len(text.strip()) > MAX_SPAN:
            return "text:" + text.strip()
    # A text key is the fixed point of its own reading: what it reads as is what it is.
    for _ in range(_ROUNDS):
        span = clean(text)
        key = read_key(span)
        if key is None or not key.startswith("text:") or key == "text:" + text:
            return key
        text = key[5:]
    return None


def _integer_key(sign: str, digits: str) -> str:
    """Key of an integer of any size, without building it."""
    digits = digits.replace(",", "").lstrip("0") or "0"
    return "num:" + ("-" if sign == "-" and digits != "0" else "") + digits


def read_key(span: str, depth: int = 0) -> str | None:
    """Key of a cleaned span; ``depth`` counts the brackets around it."""
    if not span:
        return None
    simple = _read_bool(span) or _read_choice(span)
    if simple is not None:
        return simple
    if span.isascii() and span.isdigit():
        return _integer_key("", span)
    return (
        _read_number(span) or _read_parts(span, depth) or _read_phrase(span, depth) or _text(span)
    )


def _number_key(value: Fraction | None) -> str | None:
    body = None if value is None else number_body(value)
    return None if body is None else "num:" + body


_BOOL = re.compile(
    r"(yes|true|no|false)(?:$|[,;:.!]| - | ?\(| (?=(?:he|she|it|they|we|you|i)\b))", re.IGNORECASE
)
_CHOICE = re.compile(
    r"(?:(?:the )?(?:option|choice|answer|letter) )?(?:"
    r"[(\[] ?([A-Ja-j]) ?[)\]](?= |$|[.:])"
    r"|([A-Ja-j])\)(?= |$)"
    r"|([A-J])\.(?= )"
    r"|([A-J])(?= is (?:the )?(?:correct|right|best|true|answer))"
    r"|([A-Ja-d])$)"
)
_NAMED_CHOICE = re.compile(r"(?:option|choice|letter) ([A-Ja-j])(?=$|[ .:,])", re.IGNORECASE)
_MORE = re.compile(r" ?(?:[*/^+=-]|(?:,|;|&|and\b|or\b) ?[(\[]?[A-Ja-j]\b)|.*\([A-Ja-j]\)")
_CHOICE_AFTER = re.compile(r"[-+$.0-9].* \(([A-J])\)")


def _read_bool(span: str) -> str | None:
    if span[0] not in "yYtTnNfF":
        return None
    match = _BOOL.match(span)
    if match is None:
        return None
    return "bool:yes" if match[1].lower() in ("yes", "true") else "bool:no"


def _read_choice(span: str) -> str | None:
    match = _CHOICE.match(span) or _NAMED_CHOICE.match(span)
    if match is not None and not _MORE.match(span, match.end()):
        return "choice:" + (match[match.lastindex or 1]).lower()
    match = _CHOICE_AFTER.fullmatch(span)
    return None if match is None else "choice:" + match[1].lower()


_ABOUT = re.compile(
    r"(?:(?:that|is|are|was|equals|equal to|exactly|precisely|only|just|about|around|roughly|nearly"
    r"|approximately|approx\.?|a total of|in total|usd|rs\.?|inr|eur|gbp) |= ?|~ ?)+",
    re.IGNORECASE,
)


def _read_number(span: str) -> str | None:
    """A date, a time, or a number with a unit or words that do not change it."""
    about = _ABOUT.match(span)
    if about is not None:
        span = span[about.end() :]
    key = compound.read_date(span) or compound.read_time(span)
    if key is not None:
        return key
    value = read_number(span)
    if value is not None:
        return _number_key(value)
    found = number_prefix(span) or words_prefix(span)
    if found is None:
        return None
    value, end = found
    return _number_key(value) if drops_out(span[end:]) else None


def _read_parts(span: str, depth: int) -> str | None:
    if depth >= compound.MAX_DEPTH:
        return None

    def part(text: str) -> str | None:
        return read_key(text.strip(), depth + 1)

    return (
        compound.read_bracketed(span, part)
        or compound.read_matrix(span, part)
        or compound.read_plus_minus(span)
        or compound.read_ratio(span)
        or compound.read_range(span)
        or (compound.read_list(span, part) if depth == 0 else None)
    )


# Possessive quantifiers (``++``) keep these linear: a word is never cut in two.
_SYMBOL = re.compile(r"[A-Za-z](?:_[A-Za-z0-9]+)?(?:\([A-Za-z0-9]\))?|\\[a-z]+")
_NAME = re.compile(rf"{_SYMBOL.pattern}|[A-Za-z]{{2,}}+(?: [A-Za-z]{{2,}}+){{0,5}}")
_ARITHMETIC = re.compile(r"(?:[0-9.,%()\s+*/-]|[A-Za-z]{2,}+)++")
_MEMBER_OF = re.compile(r"[A-Za-z] ?(?:\\in(?![A-Za-z])|\u2208) ?(.+)")
_ANSWER_IS = re.compile(
    r"(?:the |my |our )?(?:final |correct )?answer(?: is|:) ?(.+)", re.IGNORECASE
)
_SENTENCE = re.compile(
    r"((?:[A-Za-z][A-Za-z'-]* ){1,12}?)(?:is|are|was|were|be|equals|has|have|had|makes?|made|earns?"
    r"|earned|costs?|gets?|got|needs?|needed|spends?|spent|pays?|paid|takes?|took|left|sold|bought"
    r"|total) (?:(?:about|exactly|only|just|approximately|now|still|a total of) )*(?=[-+.0-9])"
)
_CHANGES = re.compile(r"(?:not|least|most|more|less|fewer|than|between|from|over|under|if|never)$")


def _read_phrase(span: str, depth: int) -> str | None:
    """``x = 5``, ``2 + 3 = 5``, ``x \\in [0, 1)``, ``Tom has 5 apples``."""
    if depth >= compound.MAX_DEPTH:
        return None
    if "=" in span:
        return _read_equation(span, depth)
    member = _MEMBER_OF.fullmatch(span) or _ANSWER_IS.fullmatch(span)
    if member is not None:
        return read_key(member[1], depth + 1)
    sentence = _SENTENCE.match(span)
    if sentence is None or any(map(_CHANGES.match, sentence[1].lower().split())):
        return None
    return _read_number(span[sentence.end() :])


def _read_equation(span: str, depth: int) -> str | None:
    """The value that a chain of equal sides comes to; None if unknowns stand on both sides."""
    *sides, last = (side.strip() for side in span.split("="))
    if not last or last[0] in "<>" or not all(sides) or sides[-1][-1] in "<>!":
        return None
    if _NAME.fullmatch(sides[0]):
        sides = sides[1:]
    if not all(map(_ARITHMETIC.fullmatch, sides)):
        return None
    key = read_key(last, depth + 1)
    if not sides or (key is not None and not key.startswith("text:")):
        return key
    # "18 = 9 * 2", "18 = x": the number is on the left.
    named = _ARITHMETIC.fullmatch(last) or _SYMBOL.fullmatch(last)
    return _read_number(sides[0]) if named else None


_ARTICLE = re.compile(r"(?:the|an|a) (?=[a-z]{2})")
_MATH = re.compile(r"[\\^_=<>|+*/{}]|[0-9][A-Za-z]|[A-Za-z][0-9]")
_TIGHT = re.compile(r" ?([-+*/=^_<>|(){}\[\],;:]) ?| (?=\\)")


def _text(span: str) -> str | None:
    """Opaque spans: mathematics without blanks, prose in lower case without its article."""
    span = span.replace(UNIT, " ")
    if len(span) == 1 or _MATH.search(span):
        span = _TIGHT.sub(lambda match: match[1] or "", span)
    else:
        span = _ARTICLE.sub("", span.casefold(), count=1)
    return "text:" + span if span.strip(" .!-") else None
