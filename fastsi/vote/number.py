"""Numbers as exact rationals: digits with separators, fractions, powers of ten, number words.

`read_number` takes a whole cleaned span, `number_prefix` and `words_prefix` the longest number at
its start. Nothing here rounds, and nothing builds an integer of more than `MAX_DIGITS` digits.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 4000
"""Most decimal digits of a numerator or denominator; Python itself refuses to print 4,301."""

_GROUPED = (
    r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])"
    r"|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"  # Indian grouping
    r"|[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9.])"  # 1.234.567: more than one point is never decimal
    r"|[0-9]{1,3}(?:[ '_][0-9]{3})+(?![0-9/])"
)
_LITERAL = rf"(?:(?:{_GROUPED}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_POWER = r"(?:[eE][+-]?[0-9]+(?![0-9.])| ?[*x] ?10 ?\^ ?\(?[+-]?[0-9]+\)?)"
_SIGN = r"(?:[+-] ?|(?:minus|negative) )?"
_EUROPEAN = re.compile(r"([+-]?)([0-9]{1,3}(?:\.[0-9]{3})+),([0-9]{1,2})")
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})(?:"
    r"(?P<whole>[0-9]+(?:,[0-9]{3})*)(?: | and )(?P<top>[0-9]+) ?/ ?(?P<bottom>[0-9]+)(?![0-9./])"
    rf"|10 ?\^ ?\(?(?P<ten>[+-]?[0-9]+)\)?"
    rf"|(?P<first>{_LITERAL})(?P<power>{_POWER})?"
    rf"(?: ?/ ?(?P<second>-?{_LITERAL})(?![0-9./])"
    r"| (?P<scale>hundred|thousand|million|billion|trillion)\b)?"
    rf")(?P<percent> ?%| ?percent\b)?",
    re.IGNORECASE,
)
_SCALE = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SEPARATORS = str.maketrans("", "", ",_' ")


def number_body(value: Fraction) -> str | None:
    """``p`` or ``p/q`` in lowest terms; None where it would pass `MAX_DIGITS`."""
    # 3.32 bits per digit: cheap bound before Python is asked to print the integer.
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 3.3 * MAX_DIGITS:
        return None
    return str(value)


def _literal(text: str, exponent: int = 0) -> Fraction | None:
    """Value of digits with separators and at most one decimal point, times 10**exponent."""
    text = text.translate(_SEPARATORS)
    if text.count(".") > 1:
        text = text.replace(".", "")
    whole, _, decimals = text.partition(".")
    digits = (whole + decimals).lstrip("0") or "0"
    shift = exponent - len(decimals)
    if len(digits) + max(shift, 0) > MAX_DIGITS or -shift > MAX_DIGITS:
        return Fraction(0) if digits == "0" else None
    return Fraction(int(digits) * 10**shift) if shift >= 0 else Fraction(int(digits), 10**-shift)


def _exponent(text: str) -> int | None:
    """A power of ten, None where it is beyond any number that is analysed."""
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    digits = digits.lstrip("0")
    if len(digits) > 4:
        return None
    return int(sign + (digits or "0"))


def _value(match: re.Match[str]) -> Fraction | None:
    parts = match.groupdict()
    value: Fraction | None
    if parts["whole"] is not None:
        whole, top, bottom = (_literal(parts[name]) for name in ("whole", "top", "bottom"))
        if not whole or top is None or not bottom or top >= bottom:
            return None
        value = whole + top / bottom
    elif parts["ten"] is not None:
        exponent = _exponent(parts["ten"])
        value = None if exponent is None else _literal("1", exponent)
    else:
        power = parts["power"]
        exponent = 0 if power is None else _exponent(power.rpartition("^")[2].strip(" ()eE"))
        if exponent is None:
            return None
        if parts["scale"] is not None:
            exponent += _SCALE[parts["scale"].lower()]
        value = _literal(parts["first"], exponent)
        second = parts["second"]
        if value is not None and second is not None:
            divisor = _literal(second.lstrip("-"))
            if not divisor:
                return None
            value = value / divisor * (-1 if second[0] == "-" else 1)
    if value is None:
        return None
    return -value if parts["sign"][:1] in ("-", "m", "n", "M", "N") else value


def number_prefix(text: str) -> tuple[Fraction, int] | None:
    """The number that a cleaned span starts with, and where it ends; None if there is none."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    value = _value(match)
    return None if value is None else (value, match.end())


def read_number(text: str) -> Fraction | None:
    """Value of a cleaned span that is a number in digits and nothing else."""
    european = _EUROPEAN.fullmatch(text)
    if european is not None:
        value = _literal(european[2].replace(".", "") + "." + european[3])
        return value if value is None or european[1] != "-" else -value
    match = _NUMBER.fullmatch(text)
    return None if match is None else _value(match)


_words = str.split
_ONES = {
    word: value
    for value, word in enumerate(
        _words(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen sixteen seventeen eighteen nineteen"
        )
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        _words("twenty thirty forty fifty sixty seventy eighty ninety"), start=2
    )
}
_PARTS = {
    name: value
    for names, value in (
        ("half halves", 2), ("third thirds", 3), ("quarter quarters fourth fourths", 4),
        ("fifth fifths", 5), ("sixth sixths", 6), ("seventh sevenths", 7), ("eighth eighths", 8),
        ("ninth ninths", 9), ("tenth tenths", 10),
    )
    for name in _words(names)
}  # fmt: skip
_MINUS = ("minus", "negative")
_FIRST_WORDS = frozenset([*_ONES, *_TENS, *_MINUS, "a", "an", "half"])
_WORD = re.compile(r"([A-Za-z]+)(?:[ -]|$|(?=[^A-Za-z]))")
_MAX_WORDS = 24

_Found = tuple[int, int]  # a value, and the index after its last word


def words_prefix(text: str) -> tuple[Fraction, int] | None:
    """The number in words that a cleaned span starts with, and where it ends.

    ``twenty-one``, ``a hundred and five``, ``two thirds``, ``three and a half``, ``minus six``.
    """
    names: list[str] = []
    ends: list[int] = []
    at = 0
    while len(names) < _MAX_WORDS and (match := _WORD.match(text, at)):
        names.append(match[1].lower())
        if names[0] not in _FIRST_WORDS:
            return None
        ends.append(match.end(1))
        at = match.end()
    if not names:
        return None
    negative = names[0] in _MINUS
    found = _read_words(names, int(negative))
    if found is None:
        return None
    value, end = found
    return (-value if negative else value), ends[end - 1]


def _read_words(names: list[str], at: int) -> tuple[Fraction, int] | None:
    """The longest number in ``names[at:]``, and the index after it."""
    whole = _whole(names, at)
    if whole is None:
        return _part(names, at)
    value, end = whole
    if _word(names, end) in _PARTS:  # "two thirds"
        return Fraction(value, _PARTS[names[end]]), end + 1
    if _word(names, end) == "and" and (rest := _part(names, end + 1)):  # "three and a half"
        return value + rest[0], rest[1]
    return Fraction(value), end


def _word(names: list[str], at: int) -> str:
    return names[at] if at < len(names) else ""


def _part(names: list[str], at: int) -> tuple[Fraction, int] | None:
    """``half``, ``a quarter``, ``three quarters``."""
    first, second = _word(names, at), _PARTS.get(_word(names, at + 1))
    if first == "half":
        return Fraction(1, 2), at + 1
    top = 1 if first in ("a", "an") else _ONES.get(first, 0)
    return (Fraction(top, second), at + 2) if top and second else None


def _whole(names: list[str], at: int) -> _Found | None:
    """Groups below a thousand with falling scales: ``two thousand three hundred and five``."""
    found = _below_thousand(names, at)
    if found is None:
        return None
    total, last = 0, 10**15
    while True:
        group, end = found
        scale = 10 ** _SCALE.get(_word(names, end), 0)
        if not 100 < scale < last:
            return total + group, end
        total, last, end = total + group * scale, scale, end + 1
        after = end + (_word(names, end) == "and")
        following = _below_thousand(names, after)
        if following is None or _word(names, following[1]) in _PARTS:
            return total, end
        found = following


def _below_thousand(names: list[str], at: int) -> _Found | None:
    if _word(names, at) in ("a", "an") and _word(names, at + 1) in _SCALE:
        found: _Found | None = (1, at + 1)
    else:
        found = _below_hundred(names, at)
    if found is None or _word(names, found[1]) != "hundred" or found[0] == 0:
        return found
    value, end = 100 * found[0], found[1] + 1
    rest = _below_hundred(names, end + (_word(names, end) == "and"))
    if rest is None or _word(names, rest[1]) in _PARTS:  # "a hundred and one half"
        return value, end
    return value + rest[0], rest[1]


def _below_hundred(names: list[str], at: int) -> _Found | None:
    first = _word(names, at)
    if first in _ONES:
        return _ONES[first], at + 1
    if first not in _TENS:
        return None
    ones = _ONES.get(_word(names, at + 1), 0)
    return (_TENS[first] + ones, at + 2) if 0 < ones < 10 else (_TENS[first], at + 1)
