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
    rf"(?P<whole>[0-9][0-9,]*)(?: | and |-)(?P<top>[0-9]+) ?/ ?(?P<bottom>[0-9]+)(?![0-9./])"
    rf"|10 ?\^ ?\(?(?P<ten>[+-]?[0-9]+)\)?"
    rf"|(?P<first>{_LITERAL})(?P<power>{_POWER})?"
    rf"(?: ?/ ?(?P<second>-?{_LITERAL})(?![0-9./])| (?P<scale>hundred|thousand|million|billion|trillion)\b)?"
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
        if whole is None or top is None or not bottom or top >= bottom:
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


_ONES = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
}  # fmt: skip
_PARTS.update({name + "s": value for name, value in tuple(_PARTS.items()) if name[-1] in "dhr"})
_WORD = re.compile(r"([A-Za-z]+)(?:[ -]|$|(?=[^A-Za-z]))")
_FIRST_WORDS = frozenset([*_ONES, *_TENS, "a", "an", "half", "minus", "negative", "hundred"])


def words_prefix(text: str) -> tuple[Fraction, int] | None:
    """The number in words that a cleaned span starts with, and where it ends.

    ``twenty-one``, ``a hundred and five``, ``two thirds``, ``three and a half``, ``minus six``.
    """
    words: list[tuple[str, int]] = []
    at = 0
    while len(words) < 24 and (match := _WORD.match(text, at)):
        words.append((match[1].lower(), match.end(1)))
        at = match.end()
    if not words or words[0][0] not in _FIRST_WORDS:
        return None
    negative = words[0][0] in ("minus", "negative")
    names = [name for name, _ in words]
    found = _read_words(names, 1 if negative else 0)
    if found is None:
        return None
    value, used = found
    return (-value if negative else value), words[used - 1][1]


def _read_words(names: list[str], at: int) -> tuple[Fraction, int] | None:
    """Value of the longest number in ``names[at:]`` and the index after it."""
    whole = _read_whole(names, at)
    if whole is None:
        return _read_part(names, at)
    value, end = whole
    part = _PARTS.get(names[end]) if end < len(names) else None
    if part is not None:  # "two thirds"
        return Fraction(value, part), end + 1
    if end + 1 < len(names) and names[end] == "and":
        fraction = _read_part(names, end + 1)
        if fraction is not None:  # "three and a half"
            return value + fraction[0], fraction[1]
    return Fraction(value), end


def _read_part(names: list[str], at: int) -> tuple[Fraction, int] | None:
    """``half``, ``a quarter``, ``three quarters``."""
    if at >= len(names):
        return None
    if names[at] == "half":
        return Fraction(1, 2), at + 1
    top = 1 if names[at] in ("a", "an") else _ONES.get(names[at], 0)
    part = _PARTS.get(names[at + 1]) if at + 1 < len(names) else None
    return (Fraction(top, part), at + 2) if top and part else None


def _read_whole(names: list[str], at: int) -> tuple[int, int] | None:
    """Whole number in words; scales must fall: ``two thousand three hundred and five``."""
    total, group, end, last = 0, 0, at, 10**15
    free, seen = 100, False  # free: what may still be added to the group (100, 10 or 1: nothing)
    while end < len(names):
        name = names[end]
        if name in ("a", "an") and not seen and names[end + 1 : end + 2] in (
            ["hundred"], ["thousand"], ["million"], ["billion"],
        ):  # fmt: skip
            group, free = 1, 1
        elif name in _ONES and (free == 100 or free == 10 and 0 < _ONES[name] < 10):
            group, free = group + _ONES[name], 1
        elif name in _TENS and free == 100:
            group, free = group + _TENS[name], 10
        elif name == "hundred" and 0 < group < 100 or name == "hundred" and not seen:
            group, free = max(group, 1) * 100, 100
        elif name in _SCALE and name != "hundred" and group and 10 ** _SCALE[name] < last:
            last = 10 ** _SCALE[name]
            total, group, free = total + group * last, 0, 100
        elif name == "and" and seen and free == 100 and names[end + 1 : end + 2] and (
            names[end + 1] in _ONES or names[end + 1] in _TENS
        ) and names[end + 2 : end + 3] != ["half"] and (group >= 100 or total):  # fmt: skip
            end += 1
            continue
        else:
            break
        end, seen = end + 1, True
    return (total + group, end) if seen else None
