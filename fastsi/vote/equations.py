"""Explicit arithmetic in a path: what it states, and whether that is true.

An equation is ``side = side`` where a side is numbers joined by ``+ - * /``, ``x``, ``plus``,
``minus``, ``times``, ``divided by`` and brackets, and at least one side has an operator. Units may
stand after a number (``5 apples + 3 apples = 8 apples``). A chain ``3 + 4 = 7 + 2 = 9`` states two
equations, the first of them false. A side with an unknown in it (``2x + 3``, ``tax + 5``) states
nothing. Calculator marks (``<<48/2=24>>``) repeat an equation and are left out.

``25%`` is 25/100 (alone on its side, 25 will do too). A lone number with decimals may be rounded:
``10 / 3 = 3.33`` is true, ``10 / 3 = 3`` is not; ``10 / 3 is about 3`` is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from fastsi.vote.clean import fold_unicode

MAX_DIGITS = 30
"""Numbers of more digits are not arithmetic that a path works through."""
MAX_TOKENS = 64
"""Longest side, in numbers, operators, brackets and units."""
_MAX_UNIT_WORDS = 3


@dataclass(frozen=True, slots=True)
class Equation:
    """One equation that a path states."""

    text: str
    """Normalised, such as ``3.5*(2+1)=10.5``: no units, no blanks, no idle zeros."""
    true: bool
    """Whether it holds, within the rounding that a lone number shows."""


class _Token(NamedTuple):
    kind: str
    """number, op, (, ), =, word, or other (which no side may hold)."""
    text: str
    start: int
    end: int
    percent: bool = False


_Side = list[_Token]
_Value = int | Fraction

_ABOUT = "\x02"
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")
_FRAC = re.compile(r"\\[dt]?frac\{([0-9.,]{1,30})\}\{([0-9.,]{1,30})\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm)\{([^{}]{0,80})\}")
_LATEX = re.compile(r"\\(?:([a-z]+)(?![a-z])|(.))")
_LATEX_NAMES = {
    "times": "*", "cdot": "*", "div": "/", "approx": _ABOUT, "left": "", "right": "",
}  # fmt: skip
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:(?P<percent> ?%)|(?P<glued>[_^]|[A-Za-z](?![A-Za-z])(?<![xX](?=[0-9(\s]))))?"
    r"|(?P<op>[-+*/]|\b(?:divided|multiplied) by\b)"
    r"|(?P<paren>[()])"
    r"|(?P<about>(?:\bis|=) (?:about|approximately|roughly)\b|\x02)"
    r"|(?P<equals>==?)"
    r"|(?P<word>[A-Za-z][A-Za-z'-]*)"
    r"|(?P<other>[^\s$])"
)
_WORD_OPS = {"x": "*", "X": "*", "times": "*", "plus": "+", "minus": "-"}
_LONG_OPS = {"divided by": "/", "multiplied by": "*"}
_WORD_EQUALS = frozenset(("is", "equals", "makes", "gives", "leaves"))
_STATES = re.compile(r"[=\x02]|\b(?:is|equals|makes|gives|leaves)\b")
_DIGIT = re.compile(r"[0-9]")
_BREAK = re.compile(r"[,.:;!?](?=\s)|\n")


def equations(text: str) -> tuple[Equation, ...]:
    """The explicit equations of a path, in order, each with its truth."""
    return tuple(
        Equation(_written(left) + "=" + _written(right), _holds(left, right, about=about))
        for left, right, about in _statements(text)
    )


def equation_list(text: str) -> tuple[str, ...]:
    """The normalised equations of a path in order: equal lists mean equal reasoning."""
    return tuple(_written(left) + "=" + _written(right) for left, right, _ in _statements(text))


def equation_is_true(equation: str) -> bool | None:
    """Whether every equation in the text holds; None if it states none."""
    found = equations(equation)
    return all(each.true for each in found) if found else None


def _statements(text: str) -> Iterator[tuple[_Side, _Side, bool]]:
    """Left side, right side, and whether they are said to be about equal."""
    # No side crosses a break, and most fragments state nothing: those are not even split up.
    for fragment in _BREAK.split(_plain(text)):
        if not (_STATES.search(fragment) and _DIGIT.search(fragment)):
            continue
        tokens = _tokens(fragment)
        for at, token in enumerate(tokens):
            if token.kind != "=":
                continue
            left = _side_before(tokens, at)
            if left is None or (token.text.isalpha() and not _has_operator(left)):
                continue
            right = _side_after(tokens, at)
            if right is not None and (_has_operator(left) or _has_operator(right)):
                yield left, right, token.text == _ABOUT


def _plain(text: str) -> str:
    """The path with Unicode and LaTeX operators spelled in ASCII."""
    text = fold_unicode(text.replace("\u2248", _ABOUT).replace("**", " "))
    text = _CALCULATOR.sub("", text) if "<<" in text else text
    if "\\" not in text:
        return text
    text = _LATEX_TEXT.sub(r" \1 ", _FRAC.sub(r"(\1/\2)", text))

    def spell(match: re.Match[str]) -> str:
        if match[1] is None:
            return "%" if match[2] == "%" else " "
        return _LATEX_NAMES.get(match[1], match[0])

    return _LATEX.sub(spell, text)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    for match in _TOKEN.finditer(text):
        kind, shown = match.lastgroup or "other", match[0]
        if match["number"] is not None:
            shown = match["number"]
            kind = "other" if match["glued"] or len(shown) > MAX_DIGITS else "number"
        elif kind == "op":
            shown = _LONG_OPS.get(shown, shown)
        elif kind == "about":
            kind, shown = "=", _ABOUT
        elif kind == "equals":
            kind = "="
        elif kind == "paren":
            kind = shown
        elif kind == "word" and shown in _WORD_OPS:
            kind, shown = "op", _WORD_OPS[shown]
        elif kind == "word" and shown == "of" and _is_share(tokens):
            kind, shown = "op", "*"
        elif kind == "word" and shown in _WORD_EQUALS:
            kind = "="
        tokens.append(_Token(kind, shown, match.start(), match.end(), bool(match["percent"])))
    return tokens


def _is_share(tokens: list[_Token]) -> bool:
    """Whether ``of`` multiplies: after ``20%`` or ``1/2``."""
    if not tokens or tokens[-1].kind != "number":
        return False
    return tokens[-1].percent or (len(tokens) > 1 and tokens[-2].text == "/")


def _has_operator(side: _Side) -> bool:
    return any(token.kind == "op" for token in side[1:])


def _side_before(tokens: list[_Token], equals: int) -> _Side | None:
    """The longest side that ends just before ``equals``; None if it holds an unknown."""
    side: _Side = []
    depth, at, low = 0, equals - 1, max(0, equals - MAX_TOKENS)
    while True:
        # An operand ends at ``at``: closing brackets, a number, and the units behind it.
        at = _skip_units_back(tokens, at)
        if at < low or tokens[at].kind not in ("number", ")"):
            return None
        side.append(tokens[at])
        at -= 1
        if side[-1].kind == ")":
            depth += 1
            continue
        if at > low and _is_sign(tokens, at) and tokens[at - 1].kind in ("op", "("):
            side.append(tokens[at])
            at -= 1
        while at >= low and depth and tokens[at].kind == "(":
            side.append(tokens[at])
            depth -= 1
            at -= 1
        if at < low or tokens[at].kind != "op":
            return None if depth or (at >= low and _belongs(tokens, at)) else side[::-1]
        if _lacks_operand(tokens, at):
            return _with_sign(tokens, at, side) if depth == 0 else None
        side.append(tokens[at])
        at -= 1


def _with_sign(tokens: list[_Token], at: int, side: _Side) -> _Side | None:
    """The reversed ``side`` with the operator at ``at``, which has no operand on its left.

    It is a sign if it touches the number, a bullet if it comes first; else an unknown stands before
    it (``cost + 5``, ``y - 3``, and ``y -3``).
    """
    before = tokens[at - 1] if at else None
    if _is_sign(tokens, at) and (
        before is None or len(before.text) > 1 or not before.text.isalpha()
    ):
        side.append(tokens[at])
    elif before is not None:
        return None
    return side[::-1]


def _is_sign(tokens: list[_Token], at: int) -> bool:
    """Whether a minus touches the number after it."""
    if tokens[at].text != "-" or at + 1 >= len(tokens):
        return False
    return tokens[at + 1].kind == "number" and tokens[at + 1].start == tokens[at].end


def _lacks_operand(tokens: list[_Token], at: int) -> bool:
    before = _skip_units_back(tokens, at - 1)
    return before < 0 or tokens[before].kind not in ("number", ")")


def _belongs(tokens: list[_Token], at: int) -> bool:
    """Whether the token before a side is part of it: ``1 1/2``, ``2*(3+4``, ``2x 3``."""
    token = tokens[at]
    if token.kind == "(":
        return at > 0 and tokens[at - 1].kind == "op"
    return token.kind == "number" or (token.kind == "other" and token.text[-1:] in "0123456789^_}")


def _skip_units_back(tokens: list[_Token], at: int) -> int:
    """Index of the number whose units end at ``at``; ``at`` itself if there are none."""
    for back in range(_MAX_UNIT_WORDS + 1):
        if at - back < 0:
            return at
        kind = tokens[at - back].kind
        if kind != "word":
            return at - back if kind in ("number", ")") else at
    return at


def _side_after(tokens: list[_Token], equals: int) -> _Side | None:
    """The longest side that starts just after ``equals``; None if it holds an unknown."""
    side: _Side = []
    depth, at, high = 0, equals + 1, min(len(tokens), equals + MAX_TOKENS)
    while True:
        while at < high and tokens[at].kind == "(":
            side.append(tokens[at])
            depth += 1
            at += 1
        if at < high and _is_sign(tokens, at):
            side.append(tokens[at])
            at += 1
        if at >= high or tokens[at].kind != "number":
            return None
        side.append(tokens[at])
        at += 1
        end = at
        while at < high and at - end < _MAX_UNIT_WORDS and tokens[at].kind == "word":
            at += 1
        while at < high and depth and tokens[at].kind == ")":
            side.append(tokens[at])
            depth -= 1
            at += 1
        if at >= high or tokens[at].kind != "op":
            break
        if not _goes_on(tokens, at):
            # A dash or "3 times as many" ends the side; "8 + tax" is no number.
            if tokens[at].text != "-" and tokens[at].end - tokens[at].start == 1:
                return None
            break
        side.append(tokens[at])
        at += 1
    return None if depth else side


def _goes_on(tokens: list[_Token], at: int) -> bool:
    if at + 1 >= len(tokens):
        return False
    return tokens[at + 1].kind in ("number", "(") or _is_sign(tokens, at + 1)


def _number_text(token: _Token) -> str:
    whole, point, decimals = token.text.replace(",", "").partition(".")
    decimals = decimals.rstrip("0")
    shown = (whole.lstrip("0") or "0") + ("." + decimals if point and decimals else "")
    return shown + ("%" if token.percent else "")


def _written(side: _Side) -> str:
    return "".join(_number_text(token) if token.kind == "number" else token.text for token in side)


def _holds(left: _Side, right: _Side, *, about: bool) -> bool:
    try:
        a, b = _evaluate(left), _evaluate(right)
    except ZeroDivisionError:
        return False
    slack = max(_slack(left, about), _slack(right, about))
    if abs(a - b) <= slack:
        return True
    # A lone percentage may stand for its number: "30 + 20 = 50%".
    as_number = [(a, left, b), (b, right, a)]
    return any(
        _is_lone(side) and side[-1].percent and abs(100 * value - other) <= 100 * slack
        for value, side, other in as_number
    )


def _is_lone(side: _Side) -> bool:
    return len(side) <= 2 and not _has_operator(side)


def _slack(side: _Side, about: bool) -> Fraction:
    """Half a unit of the last decimal that a lone number shows; none for an integer."""
    number = side[-1]
    if not _is_lone(side) or not (about or "." in number.text):
        return Fraction(0)
    places = len(number.text.partition(".")[2]) + (2 if number.percent else 0)
    return Fraction(1, 2 * 10**places)


def _evaluate(side: _Side) -> Fraction:
    """Value of a side with the usual precedence.

    Raises:
        ZeroDivisionError: a divisor is zero.
    """
    values: list[_Value] = []
    operators: list[str] = []
    previous = "("
    for token in side:
        if token.kind == "number":
            digits = token.text.replace(",", "")
            value = int(digits) if digits.isdigit() else Fraction(digits)
            values.append(Fraction(value, 100) if token.percent else value)
        elif token.kind == "(":
            operators.append("(")
        elif token.kind == ")":
            while operators[-1] != "(":
                _apply(values, operators.pop())
            operators.pop()
        else:
            sign = "neg" if previous in ("(", "op") else token.text
            while sign != "neg" and operators and _RANK[operators[-1]] >= _RANK[sign]:
                _apply(values, operators.pop())
            operators.append(sign)
        previous = token.kind
    while operators:
        _apply(values, operators.pop())
    return Fraction(values[0])


_RANK = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "neg": 3}


def _apply(values: list[_Value], operator: str) -> None:
    if operator == "neg":
        values[-1] = -values[-1]
        return
    right = values.pop()
    if operator == "+":
        values[-1] += right
    elif operator == "-":
        values[-1] -= right
    elif operator == "*":
        values[-1] *= right
    else:
        values[-1] = Fraction(values[-1]) / right
