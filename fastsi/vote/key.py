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
from typing import Any

from fastsi._ext import load
from fastsi.vote import compound, phrase
from fastsi.vote.choice import read_bool, read_choice
from fastsi.vote.clean import MAX_SPAN, UNIT, clean

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
    simple = read_bool(span) or read_choice(span)
    if simple is not None:
        return simple
    if span.isascii() and span.isdigit():
        return _integer_key("", span)
    key = phrase.read_number_phrase(span)
    if key is None and depth < compound.MAX_DEPTH:
        key = _read_parts(span, depth)
    return _text(span) if key is None else key


def _read_parts(span: str, depth: int) -> str | None:

    def part(text: str) -> str | None:
        return read_key(text.strip(), depth + 1)

    return (
        compound.read_bracketed(span, part)
        or compound.read_union(span, part)
        or compound.read_matrix(span, part)
        or compound.read_plus_minus(span)
        or compound.read_ratio(span)
        or compound.read_range(span)
        or (compound.read_list(span, part) if depth == 0 else None)
        or phrase.read_phrase(span, part)
    )


_TIGHT = re.compile(r" ?([-+*/=^_<>|(){}\[\],;:]) ?| (?=\\)")
_MATH = re.compile(
    r"[\\^_=<>|+*/{}]|[0-9][A-Za-z]|[A-Za-z][0-9]"
    r"|(?<![A-Za-z])(?:pi|sqrt|infinity|inf)(?![A-Za-z])"
)
_ARTICLE = re.compile(r"(?:the|an|a) (?=[a-z]{2})")
_ROOT = re.compile(r"(?:\\|(?<![A-Za-z\\]))sqrt ?(?:\(([0-9A-Za-z]+)\)|\{([0-9A-Za-z]+)\})")
_CONSTANT = re.compile(r"(?<![A-Za-z\\])(?:(pi)|(?:positive )?(?:infinity|inf))(?![A-Za-z])")
_NEGATIVE = re.compile(r"(?:negative|minus) (?=\\)")
_STAR = re.compile(r"(?<=[0-9A-Za-z)}]) ?\* ?(?=[A-Za-z\\(])")
_COEFFICIENT = re.compile(r"(?<=[0-9]) (?=[A-Za-z](?![A-Za-z]))")
_COMMAND_BLANK = re.compile(r"(\\[A-Za-z]+) (?![A-Za-z])")


def _text(span: str) -> str | None:
    """Opaque spans: mathematics without blanks, prose in lower case without its article."""
    span = span.replace(UNIT, " ")
    if len(span) == 1 or _MATH.search(span):
        span = _mathematics(span)
    else:
        span = span.casefold()
        article = _ARTICLE.match(span)
        span = span[article.end() :] if article else span
        called = span.rstrip("!")
        span = called if len(called) > 1 and called[-2:].isalpha() else span  # "n!" is none
        span = "\\emptyset" if span == "empty set" else span
    return "text:" + span if span.strip(" .!-") else None


def _mathematics(span: str) -> str:
    """One spelling of products, roots and constants; nothing is computed."""
    span = span.replace("<=", "\\le ").replace(">=", "\\ge ")
    span = _ROOT.sub(lambda match: "\\sqrt{" + (match[1] or match[2]) + "}", span)
    span = _CONSTANT.sub(lambda match: "\\pi " if match[1] else "\\infty ", span)
    span = _NEGATIVE.sub("-", span)
    span = _COEFFICIENT.sub("", _STAR.sub("", span))
    span = _TIGHT.sub(lambda match: match[1] or "", span)
    span = _COMMAND_BLANK.sub(r"\1", span).strip(" ")
    span = span[1:] if span[:1] == "+" else span
    return "\\emptyset" if span == "{}" else span
