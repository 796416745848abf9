"""Answers made of parts: tuples, intervals, unions, sets, lists, matrices, ratios, ranges.

Each reader takes a cleaned span and returns a canonical key, or None where the span is not of its
form. Parts are read by the caller's ``part`` function, so nesting goes through `key.read_key`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from math import gcd
from typing import TypeGuard

from fastsi.vote.kinds import render
from fastsi.vote.number import number_body, number_prefix, read_number
from fastsi.vote.tail import drops_out
from fastsi.vote.words import words_prefix

MAX_DEPTH = 6
"""Deepest nesting of brackets that is analysed."""

Part = Callable[[str], str | None]

_OPEN = "([{"
_CLOSE = ")]}"
_PAIR = {"(": ")", "[": "]", "{": "}"}


def split_top(text: str, separators: re.Pattern[str]) -> list[str] | None:
    """Split at separators outside brackets; None where brackets do not balance."""
    depth, start, parts = 0, 0, []
    at = 0
    while at < len(text):
        char = text[at]
        if char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and (match := separators.match(text, at)):
            parts.append(text[start:at])
            at = start = match.end()
            continue
        at += 1
    if depth:
        return None
    parts.append(text[start:])
    return [part.strip() for part in parts]


def is_enclosed(text: str) -> bool:
    """Whether the first and last character are brackets and close each other."""
    if len(text) < 2 or text[0] not in _OPEN or text[-1] not in _CLOSE:
        return False
    depth = 0
    for at, char in enumerate(text):
        depth += (char in _OPEN) - (char in _CLOSE)
        if depth == 0:
            return at == len(text) - 1
    return False


def sort_parts(bodies: list[str]) -> list[str]:
    """One order for the members of a set: numbers by value, then the rest by spelling."""

    def order(body: str) -> tuple[int, Fraction, str]:
        value = read_number(body)
        return (1, Fraction(0), body) if value is None else (0, value, body)

    return sorted(bodies, key=order)


def _is_member(key: str | None) -> TypeGuard[str]:
    """Whether a key can be read back from between commas and brackets."""
    return key is not None and not (key.startswith("text:") and _NO_PART.search(key))


_COMMA_BLANK = re.compile(r", +|;")
_COMMA = re.compile(r"[,;]")
_NO_PART = re.compile(r"[()\[\]{},;]")


def read_bracketed(text: str, part: Part) -> str | None:
    """``(1, 2)`` and ``[0, 1)`` keep order and brackets, ``{2, 1}`` is sorted; ``(5)`` is 5."""
    if not is_enclosed(text):
        return None
    opening, closing, inside = text[0], text[-1], text[1:-1].strip()
    members = split_top(inside, _COMMA_BLANK)
    if members is not None and len(members) == 1:
        members = split_top(inside, _COMMA)
    if members is None or not all(members):
        return None
    if len(members) == 1:
        return part(inside) if _PAIR[opening] == closing else None
    bodies = []
    for member in members:
        key = part(member)
        if not _is_member(key):
            return None
        bodies.append(render(key))
    if opening == "{" and closing == "}":
        return "set:{" + ", ".join(sort_parts(bodies)) + "}"
    if "{" in opening or "}" in closing:
        return None
    return f"tuple:{opening}{', '.join(bodies)}{closing}"


_LIST = re.compile(r", +(?:and|or) +|, *| +(?:and|or) +| *& *|;")
_BEFORE_LIST = re.compile(r"(?:both|either|options|choices|answers) ", re.IGNORECASE)
_ASSIGN = re.compile(r"([A-Za-z](?:_[A-Za-z0-9])?) ?= ?(?=\S)")


def read_list(text: str, part: Part) -> str | None:
    """``1, 2 and 3`` is the set of its members; so are numbers, choices and brackets, not words.

    ``x=1, y=2`` keeps the names, sorted; ``x=1 or x=2`` is the set of the values. ``x=12,345`` is
    the number, as ``12,345`` is.
    """
    before = _BEFORE_LIST.match(text)
    members = split_top(text[before.end() :] if before else text, _LIST)
    if members is None or len(members) < 2 or not all(members):
        return None
    names, values = [], []
    for member in members:
        match = _ASSIGN.match(member)
        names.append(match[1] if match else "")
        values.append(member[match.end() :] if match else member)
    named = _ASSIGN.match(text)
    if named and not any(names[1:]):
        whole = part(text[named.end() :])
        if whole is not None and whole.startswith("num:"):
            return whole
    keys = [part(value) for value in values]
    if any(key is None or key.startswith(("text:", "bool:")) for key in keys):
        return None
    tails = [_tail(value) for value in values]
    if any(tail not in ("", tails[-1]) for tail in tails):
        return None  # "2 hours and 30 minutes" is one quantity
    bodies = [render(key) for key in keys if key is not None]
    if len({name for name in names if name}) > 1:
        if not all(names) or len(set(names)) != len(names):
            return None
        pairs = sorted(zip(names, bodies, strict=True))
        return "named:" + ", ".join(f"{name}={body}" for name, body in pairs)
    return "set:{" + ", ".join(sort_parts(bodies)) + "}"


def _tail(member: str) -> str:
    """What follows the number in a member: its unit."""
    found = number_prefix(member) or words_prefix(member)
    return "" if found is None else member[found[1] :].strip()


_PLUS_MINUS = re.compile(r"(?:(.*?) ?)\\pm ?(.+)")


def read_plus_minus(text: str) -> str | None:
    """``\\pm 5`` is the set {-5, 5}; ``1 \\pm 5`` is {-4, 6}."""
    match = _PLUS_MINUS.fullmatch(text) if "\\pm" in text else None
    if match is None:
        return None
    center = read_number(match[1]) if match[1] else Fraction(0)
    spread = read_number(match[2])
    if center is None or spread is None:
        return None
    low, high = number_body(center - abs(spread)), number_body(center + abs(spread))
    if low is None or high is None:
        return None
    return f"num:{low}" if low == high else "set:{" + f"{low}, {high}" + "}"


_CUP = re.compile(r"\\cup(?![A-Za-z])|U(?= ?[(\[{])")


def read_union(text: str, part: Part) -> str | None:
    """``[0,1) \\cup (2,3]``: intervals and sets, sorted."""
    if text[0] not in _OPEN or ("\\cup" not in text and "U" not in text):
        return None
    members = split_top(text, _CUP)
    if members is None or len(members) < 2:
        return None
    bodies = []
    for member in members:
        key = part(member) if is_enclosed(member) else None
        if key is None:
            return None
        single = member[0] == "{" and key.startswith("num:")
        if not single and not key.startswith(("tuple:", "set:")):
            return None
        bodies.append("{" + render(key) + "}" if single else render(key))
    return "union:" + " \\cup ".join(sorted(bodies))


_MATRIX = re.compile(
    r"\\begin\{((?:[pbBvV]|small)?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL
)


def read_matrix(text: str, part: Part) -> str | None:
    """Rows of members; determinant bars are kept apart from brackets."""
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [row for row in match[2].split("\\\\") if row.strip()]
    cells = [[part(cell.strip()) for cell in row.split("&")] for row in rows]
    if not cells or len({len(row) for row in cells}) != 1:
        return None
    if not all(_is_member(key) for row in cells for key in row):
        return None
    kind = match[1] if match[1] in ("vmatrix", "Vmatrix") else "pmatrix"
    body = " \\\\ ".join(" & ".join(render(key) for key in row if key) for row in cells)
    return f"matrix:\\begin{{{kind}}} {body} \\end{{{kind}}}"


_RATIO = re.compile(r" ?: ?")


def read_ratio(text: str) -> str | None:
    """``a:b`` or ``a:b:c`` in lowest terms, order kept."""
    if ":" not in text:
        return None
    fields = [read_number(field) for field in _RATIO.split(text)]
    values = [field for field in fields if field is not None]
    if len(values) != len(fields) or len(values) > 8:
        return None
    scale = 1
    for value in values:
        scale = scale * value.denominator // gcd(scale, value.denominator)
    whole = [int(value * scale) for value in values]
    divisor = gcd(*whole) or 1
    bodies = [number_body(Fraction(value // divisor)) for value in whole]
    if any(body is None for body in bodies):
        return None
    return "ratio:" + ":".join(body for body in bodies if body is not None)


_JOINT = re.compile(r"( (?!to |through )[A-Za-z]+)?(?: ?- ?| ?\.\.+ ?| to | through )")
_AND = re.compile(r"( [A-Za-z]+)? and ")


def read_range(text: str) -> str | None:
    """``5-7``, ``5 to 7 days``, ``between 5 and 7``: two rising numbers; ``7-5`` is no range."""
    named = text.startswith("between ")
    text = text.removeprefix("between ") if named else text.removeprefix("from ")
    low = number_prefix(text)
    joint = None if low is None else (_AND if named else _JOINT).match(text, low[1])
    high = None if joint is None else number_prefix(text[joint.end() :])
    if low is None or joint is None or high is None or not low[0] < high[0]:
        return None
    unit = text[joint.end() + high[1] :]
    if not drops_out(unit) or (joint[1] or unit) != unit:
        return None
    bodies = number_body(low[0]), number_body(high[0])
    return None if None in bodies else f"range:{bodies[0]} to {bodies[1]}"
