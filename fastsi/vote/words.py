"""Numbers in words: ``twenty-one``, ``a hundred and five``, ``two thirds``, ``minus six``.

Words are joined by one blank or hyphen. A whole number is groups below a thousand with falling
scales; after it may stand ``point`` and digits, a fraction word in the plural (``two thirds``; one
of it in the singular), or ``and`` and a fraction.
"""

from __future__ import annotations

import re
from fractions import Fraction

_words = str.split
SCALES = {
    "hundred": 2, "thousand": 3, "lakh": 5, "million": 6, "crore": 7, "billion": 9, "trillion": 12,
    "quadrillion": 15,
}  # fmt: skip
"""Words that multiply the number before them by a power of ten."""

_PART_WORDS = _words(
    "half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
PARTS = {
    **{word: value for value, word in enumerate(_PART_WORDS, 2)},
    "quarter": 4, "hundredth": 100, "thousandth": 1000, "millionth": 10**6,
}  # fmt: skip
"""Fraction words: one of these, or several in the plural."""
PLURAL_PARTS = {"halves" if word == "half" else word + "s": value for word, value in PARTS.items()}
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
_MINUS = ("minus", "negative")
_FIRST_WORDS = frozenset([*_ONES, *_TENS, *_MINUS, "a", "an", "half"])
_WORD = re.compile(r"([A-Za-z]+)[ -]?")
_MAX_WORDS = 24

_Found = tuple[int, int]  # a value, and the index after its last word


def words_prefix(text: str) -> tuple[Fraction, int] | None:
    """The number in words that a cleaned span starts with, and where it ends; None if none."""
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
    if _word(names, end) == "percent":
        end += 1
    return (-value if negative else value), ends[end - 1]


def _read_words(names: list[str], at: int) -> tuple[Fraction, int] | None:
    """The longest number in ``names[at:]``, and the index after it."""
    whole = _whole(names, at)
    if whole is None:
        return _part(names, at)
    value, end = whole
    parts = PARTS if value == 1 else PLURAL_PARTS
    if _word(names, end) in parts:  # "two thirds"
        return Fraction(value, parts[names[end]]), end + 1
    if _word(names, end) == "and" and (rest := _part(names, end + 1)):  # "three and a half"
        return value + rest[0], rest[1]
    if _word(names, end) == "point" and _ONES.get(_word(names, end + 1), 10) < 10:
        return _decimals(names, end + 1, value)
    return Fraction(value), end


def _decimals(names: list[str], at: int, whole: int) -> tuple[Fraction, int]:
    """``three point one four``: digits one by one."""
    value, scale = whole, 1
    while (digit := _ONES.get(_word(names, at), 10)) < 10:
        value, scale, at = value * 10 + digit, scale * 10, at + 1
    return Fraction(value, scale), at


def _word(names: list[str], at: int) -> str:
    return names[at] if at < len(names) else ""


def _part(names: list[str], at: int) -> tuple[Fraction, int] | None:
    """``half``, ``half a million``, ``a quarter``, ``three quarters``."""
    first, second = _word(names, at), _word(names, at + 1)
    if first == "half":
        if second == "a" and (scale := SCALES.get(_word(names, at + 2))) is not None:
            return Fraction(10**scale, 2), at + 3
        return Fraction(1, 2), at + 1
    top = 1 if first in ("a", "an") else _ONES.get(first, 0)
    bottom = PARTS.get(second) if top == 1 else PLURAL_PARTS.get(second)
    return (Fraction(top, bottom), at + 2) if top and bottom else None


def _whole(names: list[str], at: int) -> _Found | None:
    """Groups below a thousand with falling scales: ``two thousand three hundred and five``."""
    found = _below_thousand(names, at)
    if found is None:
        return None
    total, last = 0, 10**18
    while True:
        group, end = found
        scale = 10 ** SCALES.get(_word(names, end), 0)
        if not 100 < scale < last:
            return total + group, end
        total, last, end = total + group * scale, scale, end + 1
        after = end + (_word(names, end) == "and")
        following = _below_thousand(names, after)
        if following is None or _is_part(names, following[1]):
            return total, end
        found = following


def _below_thousand(names: list[str], at: int) -> _Found | None:
    if _word(names, at) in ("a", "an") and _word(names, at + 1) in SCALES:
        found: _Found | None = (1, at + 1)
    else:
        found = _below_hundred(names, at)
    if found is None or _word(names, found[1]) != "hundred" or found[0] == 0:
        return found
    value, end = 100 * found[0], found[1] + 1
    rest = _below_hundred(names, end + (_word(names, end) == "and"))
    if rest is None or _is_part(names, rest[1]):  # "a hundred and one half"
        return value, end
    return value + rest[0], rest[1]


def _is_part(names: list[str], at: int) -> bool:
    name = _word(names, at)
    return name in PARTS or name in PLURAL_PARTS


def _below_hundred(names: list[str], at: int) -> _Found | None:
    first = _word(names, at)
    if first in _ONES:
        return _ONES[first], at + 1
    if first not in _TENS:
        return None
    ones = _ONES.get(_word(names, at + 1), 0)
    return (_TENS[first] + ones, at + 2) if 0 < ones < 10 else (_TENS[first], at + 1)
