r"""Numbers as exact rationals: digits with separators, fractions, powers of ten, number words.

`number_prefix` reads the longest number in digits at the start of a cleaned span, from left to
right and without going back:

1. a sign: ``+`` or ``-`` with or without a blank, ``minus``, ``negative``;
2. a mixed number ``1 1/2``, ``1 and 1/2``, whose fraction must be below one; or a power ``10^6``;
   or a literal with an optional exponent (``e3``, ``x 10^3``, ``* 10^3``), then a fraction bar and
   a second literal, or scales (``million``, ``lakh``), or a fraction word (``3 fourths``), or
   ``and a half``;
3. ``%``, ``percent``, ``per cent``.

A literal is digits with a separator before every group of three (``1,234``, ``1 234``, ``1'234``,
``1_234``; ``1.234.567`` from two points on; ``12,34,567`` as in India) and a decimal point; or
``1.234,56`` and ``1 234,56``, with a decimal comma.

`words_prefix` reads number words. Nothing rounds, and nothing builds an integer of more than
`MAX_DIGITS` digits.
"""

from __future__ import annotations

import re
from fractions import Fraction

from fastsi.vote.words import PARTS, PLURAL_PARTS, SCALES
from fastsi.vote.words import words_prefix as words_prefix

MAX_DIGITS = 4300
"""Most decimal digits of a numerator or denominator: what Python itself prints. No number written
out within `clean.MAX_SPAN` characters passes it; a power of ten can."""

_Read = tuple[Fraction, int]  # a value, and the index after its last character
_MINUS = re.compile(r"(?:minus|negative) ", re.IGNORECASE)
_MIXED = re.compile(
    r"([0-9]+(?:,[0-9]{3})*)(?: | and )([0-9]+) ?/ ?([0-9]+)(?![0-9./])", re.IGNORECASE
)
_TEN_POWER = re.compile(r"10 ?\^ ?(?:\(([+-]?[0-9]+)\)|([+-]?[0-9]+))")
_DIGITS = re.compile(r"[0-9]+")
_GROUPS = tuple(
    re.compile(pattern)
    for pattern in (
        r"[0-9]{1,3}(?:[. '][0-9]{3})+,[0-9]{1,2}(?![0-9])(?!,[0-9])",
        r"[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))+",
        r"[0-9]{1,2}(?:,[0-9]{2}(?![0-9]))+,[0-9]{3}(?![0-9])",
        r"[0-9]{1,3}(?:\.[0-9]{3}(?![0-9])){2,}(?!\.)",
        r"[0-9]{1,3}(?: [0-9]{3}(?![0-9/]))+",
        r"[0-9]{1,3}(?:'[0-9]{3}(?![0-9/]))+",
        r"[0-9]{1,3}(?:_[0-9]{3}(?![0-9/]))+",
    )
)
_DECIMALS = re.compile(r"\.[0-9]+")
_EXPONENT = re.compile(r"[eE]([+-]?[0-9]+)(?![0-9.])")
_TIMES_TEN = re.compile(r" ?[*xX] ?(?=10 ?\^)")
_BAR = re.compile(r" ?/ ?(-?)")
_AFTER = re.compile(r" ([A-Za-z]+)(?![A-Za-z])")
_AND_PART = re.compile(r" and (?:(?:a|one) )?(half|quarter|third)(?![A-Za-z])", re.IGNORECASE)
_PERCENT = re.compile(r" ?%| ?per ?cent(?![A-Za-z])", re.IGNORECASE)
_SEPARATORS = str.maketrans("", "", ",_' ")


def number_body(value: Fraction) -> str | None:
    """``p`` or ``p/q`` in lowest terms; None where it would pass `MAX_DIGITS`."""
    # 3.32 bits per digit: a cheap bound before Python is asked to print the integer.
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 3.32 * MAX_DIGITS:
        return None
    return str(value)


def read_number(text: str) -> Fraction | None:
    """Value of a cleaned span that is a number in digits and nothing else."""
    found = number_prefix(text)
    return None if found is None or found[1] != len(text) else found[0]


def number_prefix(text: str) -> _Read | None:
    """The number that a cleaned span starts with, and where it ends; None if there is none."""
    negative, at = text.startswith("-"), 0
    if text[:1] in ("+", "-"):
        at = 2 if text[1:2] == " " else 1
    elif minus := _MINUS.match(text):
        negative, at = True, minus.end()
    found = _unsigned(text, at)
    if found is None:
        return None
    value, at = found
    if percent := _PERCENT.match(text, at):
        at = percent.end()
    return (-value if negative else value), at


def _unsigned(text: str, at: int) -> _Read | None:
    if mixed := _MIXED.match(text, at):
        whole, top, bottom = (_decimal(part) for part in mixed.groups())
        if not whole or top is None or not bottom or top >= bottom:
            return None
        return whole + top / bottom, mixed.end()
    literal, at = _literal_end(text, at)
    if literal is None:
        return None
    if literal == "10" and (power := _TEN_POWER.match(text, at - 2)):
        ten = _power_of_ten("1", power[1] or power[2])
        return None if ten is None else (ten, power.end())
    exponent, at = _exponent_end(text, at)
    value = _power_of_ten(literal, exponent)
    if value is None:
        return None
    if bar := _BAR.match(text, at):
        second, end = _literal_end(text, bar.end())
        if second is not None and text[end : end + 1] not in (".", "/"):
            divisor = _decimal(second)
            if not divisor:
                return None
            return value / divisor * (-1 if bar[1] else 1), end
    return _scaled(text, at, value)


def _scaled(text: str, at: int, value: Fraction) -> _Read:
    """``2 hundred million``, ``3 fourths``, ``2 and a half``: words that change the value."""
    if (part := _AND_PART.match(text, at)) and value.denominator == 1:
        return value + Fraction(1, PARTS[part[1].lower()]), part.end()
    word = _AFTER.match(text, at)
    if word is not None and value.denominator == 1:
        name = word[1].lower()
        part_of = PARTS.get(name) if value == 1 else PLURAL_PARTS.get(name)
        if part_of is not None:
            return value / part_of, word.end()
    while word is not None and (scale := SCALES.get(word[1].lower())) is not None:
        value, at = value * 10**scale, word.end()
        word = _AFTER.match(text, at)
    return value, at


def _literal_end(text: str, at: int) -> tuple[str | None, int]:
    """Digits with their separators and decimals at ``at``, in plain form, and their end."""
    digits = _DIGITS.match(text, at)
    if digits is None:
        decimals = _DECIMALS.match(text, at)
        return (None, at) if decimals is None else (decimals[0], decimals.end())
    if digits.end() - at <= 3 and text[digits.end() : digits.end() + 1] in tuple(",. '_"):
        for rank, pattern in enumerate(_GROUPS):
            if grouped := pattern.match(text, at):
                plain, end = grouped[0], grouped.end()
                if rank == 0:  # a decimal comma
                    whole, _, part = plain.rpartition(",")
                    return whole.replace(".", "").translate(_SEPARATORS) + "." + part, end
                plain = plain.translate(_SEPARATORS)
                if rank == 3:
                    return plain.replace(".", ""), end
                return _with_decimals(text, plain, end)
    return _with_decimals(text, digits[0], digits.end())


def _with_decimals(text: str, whole: str, at: int) -> tuple[str, int]:
    decimals = _DECIMALS.match(text, at)
    return (whole, at) if decimals is None else (whole + decimals[0], decimals.end())


def _exponent_end(text: str, at: int) -> tuple[str, int]:
    """``e3``, ``x 10^3`` or ``* 10^(-3)`` at ``at``: the exponent's digits, and the end."""
    if power := _EXPONENT.match(text, at):
        return power[1], power.end()
    if (times := _TIMES_TEN.match(text, at)) and (power := _TEN_POWER.match(text, times.end())):
        return power[1] or power[2], power.end()
    return "0", at


def _decimal(literal: str) -> Fraction | None:
    return _power_of_ten(literal.replace(",", ""), "0")


def _power_of_ten(literal: str, exponent: str) -> Fraction | None:
    """A plain literal times ten to an exponent; None beyond `MAX_DIGITS`."""
    sign = -1 if exponent[0] == "-" else 1
    power = exponent.lstrip("+-").lstrip("0") or "0"
    if len(power) > 4:
        return None
    whole, _, decimals = literal.partition(".")
    digits = (whole + decimals).lstrip("0") or "0"
    shift = sign * int(power) - len(decimals)
    if len(digits) + max(shift, 0) > MAX_DIGITS or -shift > MAX_DIGITS:
        return Fraction(0) if digits == "0" else None
    return Fraction(int(digits) * 10**shift) if shift >= 0 else Fraction(int(digits), 10**-shift)
