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
r"""Stands before a unit that was written in ``\text{}``: there a single letter is a unit too."""

_DIGITS = frozenset("0123456789")
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
    **dict.fromkeys("\u00b0\u00ba\u02da", " degrees "),
    "\u2103": " degrees C",
    "\u2109": " degrees F",
    "\u221e": "\\infty ",
    "\u03c0": "\\pi ",
    "\u221a": "\\sqrt ",
    "\u00b1": "\\pm ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u2260": "\\ne ",
    "\u2208": "\\in ",
    "\u222a": "\\cup ",
    "\u2229": "\\cap ",
    "\u2205": "\\emptyset ",
    "\u27e8": "\\langle ",
    "\u27e9": "\\rangle ",
    "\u2236": ":",
    "\u00b5": "u",
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


def _raised(mark: str, run: str) -> str:
    """Raised or lowered digits as LaTeX; a sign without digits is only a sign."""
    return mark + "{" + run + "}" if any(char in _DIGITS for char in run) else run


def fold_unicode(text: str) -> str:
    """ASCII spellings of Unicode signs, spaces and digits; other letters stay."""
    if text.isascii():
        return text
    text = _SUPER_RUN.sub(lambda m: _raised("^", m[0].translate(_PLAIN)), text)
    text = _SUB_RUN.sub(lambda m: _raised("_", m[0].translate(_PLAIN)), text)
    return unicodedata.normalize("NFC", _NON_ASCII.sub(lambda m: fold_char(m[0]), text))


_DECORATION = frozenset(
    _words(
        "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle "
        "textstyle limits mathstrut"
    )
)
_BLANK_NAMES = frozenset(_words("quad qquad thinspace enspace"))
_FRACTIONS = frozenset(_words("dfrac tfrac cfrac"))
_TEXT = frozenset(_words("text mathrm textrm textit textbf textsf mbox operatorname unit"))
_WRAP = frozenset(_words("boxed fbox mathbf boldsymbol bm mathit underline emph mathsf bf rm"))
_LETTERS = re.compile(r"[A-Za-z]*")
_THREE_DIGITS = re.compile(r"[0-9]{3}(?![0-9])")


def _plain_commands(text: str) -> str:
    r"""Without ``\left``, ``\,``, ``{,}`` and the like; blanks for ``~`` and ``\quad``."""
    out: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "{" and text[at + 1 : at + 3] in (",}", " }") and _joins(text, at, at + 3):
            at += 3
        elif char == "~":
            out.append(" ")
            at += 1
        elif char != "\\":
            out.append(char)
            at += 1
        else:
            plain, end = _plain_command(text, at)
            out.append(plain)
            at = end
    return "".join(out)


def _joins(text: str, at: int, end: int) -> bool:
    """Whether ``text[at:end]`` separates a digit from a group of three."""
    return text[at - 1 : at] in _DIGITS and _THREE_DIGITS.match(text, end) is not None


def _plain_command(text: str, at: int) -> tuple[str, int]:
    end = _name_end(text, at)
    name = text[at + 1 : end]
    if name in _DECORATION:
        return "", end
    if name in _BLANK_NAMES:
        return " ", end
    if name in _FRACTIONS:
        return "\\frac", end
    if name:
        return text[at:end], end
    sign = text[end : end + 1]
    if sign == "!" or (sign == "," and _joins(text, at, at + 2)):
        return "", end + 1
    return (" " if sign in (",", ";", ":", ">", " ") else "\\" + sign), end + 1


def _name_end(text: str, at: int) -> int:
    """End of the letters of the command whose backslash is at ``at``."""
    match = _LETTERS.match(text, at + 1)
    return at + 1 if match is None else match.end()


def _braces(text: str) -> dict[int, int]:
    """Where each brace that is closed is closed; escaped braces are none."""
    stack: list[int] = []
    closed: dict[int, int] = {}
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "{":
            stack.append(at)
        elif text[at] == "}" and stack:
            closed[stack.pop()] = at
        at += 1
    return closed


def _unwrapped(text: str) -> str:
    r"""``\boxed{x}`` as ``x`` and ``\text{x}`` as `` x ``, at any depth."""
    closed = _braces(text)
    out: list[str] = []
    ends: dict[int, str] = {}
    at = 0
    while at < len(text):
        if at in ends:
            out.append(ends[at])
            at += 1
        elif text[at] == "\\":
            end = _name_end(text, at)
            name = text[at + 1 : end]
            brace = _skip_blanks(text, end)
            if (name in _TEXT or name in _WRAP) and brace in closed:
                before, ends[closed[brace]] = _around(text, at, brace, closed[brace], name)
                out.append(before)
                at = brace + 1
            else:
                end = max(end, at + 2)
                out.append(text[at:end])
                at = end
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


_SYMBOL_UNIT = re.compile(r" *[A-Za-z](?:[ /.]*[A-Za-z])?[ .]*")


def _around(text: str, at: int, brace: int, end: int, name: str) -> tuple[str, str]:
    """What replaces the opening and the closing of a wrapper."""
    if name in _WRAP:
        return "", ""
    after = _skip_blanks(text, end + 1)
    last = at - 1
    while last >= 0 and text[last] == " ":
        last -= 1
    # One or two letters after a digit: a unit that would be a variable outside \text{}.
    symbol = _SYMBOL_UNIT.fullmatch(text, brace + 1, end) is not None
    mark = UNIT if symbol and last >= 0 and text[last] in _DIGITS else " "
    return mark, "" if text[after : after + 1] == "^" else " "


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


_PRODUCT = re.compile(r"(?:[0-9.]|[A-Za-z]|\\[A-Za-z]+ ?|\{[0-9A-Za-z]*\}|\^)+")
_FACTOR = re.compile(r"[0-9]+|[A-Za-z]|\\[A-Za-z]+|\\sqrt ?(?:\{[0-9A-Za-z]+\}|[0-9]+|[A-Za-z])")
_NUMERAL = re.compile(r" *[+-]?[0-9][0-9,.]* *")


def _fractions(text: str) -> str:
    r"""``\frac{3}{4}`` as `` 3/4 ``, ``\frac{\pi}{2}`` as ``\pi/2``; others stay."""
    if "\\frac" not in text:
        return text
    closed = _braces(text)
    out: list[str] = []
    last = ""  # the last character written that is no blank
    at = 0
    while at < len(text):
        if not (text.startswith("\\frac", at) and _name_end(text, at) == at + 5):
            end = at + 2 if text[at] == "\\" else at + 1
            out.append(text[at:end])
            last = text[at:end].rstrip(" ")[-1:] or last
            at = end
            continue
        top, end = _argument(text, at + 5, closed)
        bottom, end = _argument(text, end, closed)
        plain = None if top is None or bottom is None else _plain_fraction(top, bottom)
        if plain is None:
            out.append("\\frac")
            last = "c"
            at += 5
            continue
        # An exponent is the whole fraction; a bar before it would divide by the whole of it.
        out.append("{" + plain.strip(" ") + "}" if last in ("^", "_", "/") else plain)
        last = out[-1].rstrip(" ")[-1:]
        at = end
    return "".join(out)


def _argument(text: str, at: int, closed: dict[int, int]) -> tuple[str | None, int]:
    """The group or the digit at ``at``, and its end."""
    at = _skip_blanks(text, at)
    if at in closed:
        return text[at + 1 : closed[at]], closed[at] + 1
    if text[at : at + 1] in _DIGITS:
        return text[at], at + 1
    return None, at


def _plain_fraction(top: str, bottom: str) -> str | None:
    if _NUMERAL.fullmatch(top) and _NUMERAL.fullmatch(bottom):
        # The blank keeps "1\frac{3}{4}", a mixed number, apart from "13/4".
        return f" {top.strip(' ')}/{bottom.strip(' ')} "
    top, bottom = top.strip(" "), bottom.strip(" ")
    sign = "-" if top.startswith("-") else ""
    if _PRODUCT.fullmatch(top, len(sign)) and _FACTOR.fullmatch(bottom):
        return f" {top}/{bottom} "
    return None


_DEGREE = re.compile(r"\^ *(?:\{ *\\circ *\}|\\circ(?![A-Za-z]))|\\degrees?(?![A-Za-z])")
# TeX would take one digit of \sqrt12; who writes it, or a root sign, means all of them.
_ROOT = re.compile(r"\\sqrt *([0-9]+|[A-Za-z])")
_GROUP = re.compile(r"([\^_]) *\{ *([+-]?[0-9]+|[A-Za-z]) *\}")
_NAMES = {
    "times": "*", "cdot": "*", "div": "/", "approx": "=", "simeq": "=", "sim": "=", "leq": "\\le ",
    "leqslant": "\\le ", "geqslant": "\\ge ", "lt": "<", "gt": ">", "colon": ":", "lor": "or",
    "geq": "\\ge ", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]", "dots": "...",
    "ldots": "...", "cdots": "...", "varnothing": "\\emptyset ", "mathrm": "", "text": "",
}  # fmt: skip
_COMMAND = re.compile(r"\\\\|\\([A-Za-z]+)|\\([%$#&_{}()\[\]])")


def _command(match: re.Match[str]) -> str:
    name, sign = match[1], match[2]
    if name is not None:
        return _NAMES.get(name, match[0])
    if sign is None:  # two backslashes end a row
        return match[0]
    return " " if sign in "()[]" else sign


def unlatex(text: str) -> str:
    """Plain spelling of the LaTeX that answers are dressed in; other commands stay."""
    text = _fractions(_unwrapped(_plain_commands(text)))
    text = _ROOT.sub(r"\\sqrt{\1}", _DEGREE.sub(" degrees ", text))
    return _GROUP.sub(r"\1\2", _COMMAND.sub(_command, text))


# A single letter is a country only before an amount: "A$5"; in "$A$" it is a choice.
_DOLLAR = re.compile(r"(?:\b(?:US|CA|AU|HK|NZ) ?|(?<!\$)\b[ACSR] ?(?=\$ ?[-+]?\.?[0-9]))?\$")
_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])|`")
_BLANKS = re.compile(r"\s+")


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
        text = unlatex(text)
    if "$" in text:
        text = _DOLLAR.sub("", text)
    if "*" in text or "`" in text:
        text = _BOLD.sub("", text).replace("**", "^")
    return strip_ends(_BLANKS.sub(" ", text))
