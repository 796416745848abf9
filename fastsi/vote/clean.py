"""Brings an answer span to one plain spelling before it is classified.

`clean` folds Unicode signs, spaces and digits to ASCII, unwraps LaTeX and Markdown dressing, and
strips the punctuation around the span. It changes spelling only: two spans with different meanings
stay different. Every step is linear; spans are at most `MAX_SPAN` characters long.
"""

from __future__ import annotations

import re
import unicodedata

MAX_SPAN = 4096
"""Longest span, in characters, that is analysed; a longer one is a plain integer or opaque."""

UNIT = "\x01"
"""Stands before a unit that was written in ``\\text{}``: there a single letter is a unit too."""

_words = str.split
_VULGAR = dict(
    zip(
        "\u00bc\u00bd\u00be\u2150\u2151\u2152\u2153\u2154\u2155"
        "\u2156\u2157\u2158\u2159\u215a\u215b\u215c\u215d\u215e",
        _words("1/4 1/2 3/4 1/7 1/9 1/10 1/3 2/3 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8"),
        strict=True,
    )
)
_SUPER = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b"
_SUB = "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b"

_FOLD: dict[str, str] = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\u02d7", "-"),
    **dict.fromkeys("\u2014\u2015", " - "),
    **dict.fromkeys("\u00d7\u22c5\u00b7\u2217\u2219", "*"),
    **dict.fromkeys("\u00f7\u2044\u2215", "/"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f", ""),
    **dict.fromkeys("\u2018\u2019\u201b\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u20ac\u00a3\u00a5\u20b9\uffe5\uffe1\u20a9\u20bd", "$"),
    **dict.fromkeys("\u2248\u2243\u2245", "="),
    **{char: f" {text} " for char, text in _VULGAR.items()},
    "\u00b0": " degrees ",
    "\u2103": " degrees C",
    "\u2109": " degrees F",
    "\u221e": "\\infty ",
    "\u03c0": "\\pi ",
    "\u221a": "\\sqrt ",
    "\u00b1": "\\pm ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u2026": "...",
    "\u3002": ". ",
    "\u3001": ", ",
    "\uff0c": ", ",
    "\u066b": ".",
    "\u066c": ",",
    "\u00a2": " cents",
}
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_SUPER_RUN = re.compile(f"[{_SUPER}]+")
_SUB_RUN = re.compile(f"[{_SUB}]+")
_PLAIN = str.maketrans(_SUPER + _SUB, "0123456789+-" * 2)


def fold_char(char: str) -> str:
    """ASCII spelling of one non-ASCII character; itself where it has none."""
    known = _FOLD.get(char)
    if known is not None:
        return known
    if "\uff01" <= char <= "\uff5e":  # full-width ASCII
        return chr(ord(char) - 0xFEE0)
    if char.isspace():
        return " "
    digit = unicodedata.decimal(char, None)
    return char if digit is None else str(digit)


def fold_unicode(text: str) -> str:
    """ASCII spellings of Unicode signs, spaces and digits; other letters stay."""
    if text.isascii():
        return text
    text = _SUPER_RUN.sub(lambda m: "^{" + m[0].translate(_PLAIN) + "}", text)
    text = _SUB_RUN.sub(lambda m: "_{" + m[0].translate(_PLAIN) + "}", text)
    return unicodedata.normalize("NFC", _NON_ASCII.sub(lambda m: fold_char(m[0]), text))


_DECORATION = re.compile(
    r"\\(?:left|right|[Bb]igg?[lr]?|displaystyle|textstyle|limits|mathstrut|phantom\{[^{}]*\})"
    r"(?![A-Za-z])|(?<!\\)\\!"
)
_JOIN = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|\{ \})(?=[0-9]{3}(?![0-9]))")
_SPACE = re.compile(
    r"(?<!\\)\\[,;:> ]|\\(?:quad|qquad|thinspace|enspace|hspace\{[^{}]*\})(?![A-Za-z])|~"
)
_FRAC = re.compile(r"\\[dtc]?frac(?![a-z])")
_FRAC_ARG = r"\s*(?:\{\s*([+-]?[0-9][0-9,.]*)\s*\}|([0-9]))"
_FRAC_ARGS = re.compile(r"\\frac" + _FRAC_ARG + _FRAC_ARG)
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degrees?(?![A-Za-z])")
_UNIT_TEXT = re.compile(
    r"(?<=[0-9])\s*\\(?:text|mathrm|textrm|mbox|operatorname)\s*\{\s*"
    r"([A-Za-z][A-Za-z/. ]*)\}\s*(?:\^\s*\{?\s*-?[0-9]\s*\}?)?\s*\$?\.?\s*$"
)
_TEXT = re.compile(
    r"\\(?:text|mathrm|textrm|textit|textbf|textsf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_WRAP = re.compile(
    r"\\(?:boxed|fbox|mathbf|boldsymbol|bm|mathit|underline|emph|mathsf|bf|rm)\s*\{([^{}]*)\}"
)
_SQRT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_GROUP = re.compile(r"([\^_])\s*\{\s*([+-]?[0-9]+|[A-Za-z])\s*\}")
_NAMES = {
    "times": "*", "cdot": "*", "div": "/", "approx": "=", "simeq": "=", "sim": "=", "leq": "\\le ",
    "geq": "\\ge ", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]", "dots": "...",
    "ldots": "...", "cdots": "...", "mathrm": "", "text": "",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)(?![A-Za-z])|\\([%$#&_{}()\[\]])")
_DOLLAR = re.compile(r"(?:\b(?:US|A|C|HK|NZ) ?)?\$")
_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])|`")
_BLANKS = re.compile(r"\s+")


def _command(match: re.Match[str]) -> str:
    name, sign = match[1], match[2]
    if name is not None:
        return _NAMES.get(name, match[0])
    return " " if sign in "()[]" else sign


def _fraction(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[2], match[3] or match[4]
    # The blank keeps "1\frac{3}{4}", a mixed number, apart from "13/4".
    return f" {top}/{bottom} "


def unlatex(text: str) -> str:
    """Plain spelling of the LaTeX that answers are dressed in; other commands stay."""
    text = _DECORATION.sub("", text)
    text = _JOIN.sub("", text)
    text = _SPACE.sub(" ", text)
    text = _FRAC.sub(r"\\frac", text)
    text = _UNIT_TEXT.sub(UNIT + r"\1", text)
    for _ in range(3):  # dressing nests a level or two: \boxed{\text{(\textbf{B})}}
        before = text
        text = _WRAP.sub(r"\1", _TEXT.sub(r" \1 ", text))
        if text == before:
            break
    text = _FRAC_ARGS.sub(_fraction, text)
    text = _SQRT.sub(r"\\sqrt{\1}", _DEGREE.sub(" degrees ", text))
    return _COMMAND.sub(_command, text)


def strip_ends(text: str) -> str:
    """Without the blanks, quotes and closing punctuation around a span; ``.5`` keeps its point."""
    while True:
        before = text
        text = text.strip(" \t\n\r\"'*_,;:?")
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text == before:
            return text


def clean(text: str) -> str:
    """One plain spelling of an answer span: ASCII signs, no LaTeX or Markdown dressing."""
    text = fold_unicode(text.replace(UNIT, " "))
    if "\\" in text or "{" in text:
        text = _GROUP.sub(r"\1\2", unlatex(text))
    if "$" in text:
        text = _DOLLAR.sub("", text)
    if "*" in text or "`" in text:
        text = _BOLD.sub("", text).replace("**", "^")
    return strip_ends(_BLANKS.sub(" ", text))
