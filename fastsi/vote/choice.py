"""Yes or no, and the letters of multiple choice.

A choice is a letter a-j that stands

1. in round or square brackets, before the end, a blank or ``. : ,``;
2. before ``)`` and the end or a blank;
3. as a capital before ``.`` or ``:`` and a blank, before ``is correct`` (right, best, ...), or
   before ``because`` and its like;
4. alone (a capital, or a-d), or after ``option``, ``choice``, ``letter``;

and is followed neither by an operator nor by another choice. ``18 (B)`` is B too. Words may stand
before (``the option``, ``answer``); the text of a choice does not matter.
"""

from __future__ import annotations

import re

_END = r"(?![A-Za-z0-9_])"
_BOOL = re.compile(
    r"(yes|true|no|false)(?:$|[,;:!]|\.(?! ?[0-9])| - | ?\(| (?=(?:he|she|it|they|we|you|i)"
    rf"{_END}))",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?:the )?(?:correct |right |best )?(option|choice|answer|letter) ", re.I)
_BRACKETS = re.compile(r"[(\[] ?([A-Ja-j]) ?[)\]](?=$|[ .:,])")
_HALF_BRACKET = re.compile(r"([A-Ja-j])\)(?=$| )")
_CAPITAL = re.compile(
    r"([A-J])(?:[.:](?= )|(?= is (?:the )?(?:correct|right|best|true|answer))"
    rf"|(?=,? (?:because|since|as|which){_END}))"
)
_ALONE = re.compile(r"([A-Ja-d])$")
_LETTER = re.compile(r"([A-Ja-j])(?=$|[ .:,])")
_OPERATOR = re.compile(r" ?[*/^+=]|-")
_OR_MINUS = re.compile(r" -")
_ANOTHER = re.compile(
    rf" ?(?:,|;|&|(?:and|or){_END}) ?(?:(?:option|choice|answer) )?[(\[]?[A-Ja-j]{_END}", re.I
)
_ANY = re.compile(r"\([A-Ja-j]\)")
_LAST = re.compile(r" \(([A-J])\)$")
_NUMBER_STARTS = frozenset("-+$.0123456789")


def read_bool(span: str) -> str | None:
    """``bool:yes`` or ``bool:no`` for a span that opens with yes, no, true or false."""
    if span[0] not in "yYtTnNfF":
        return None
    match = _BOOL.match(span)
    if match is None:
        return None
    return "bool:yes" if match[1].lower() in ("yes", "true") else "bool:no"


def read_choice(span: str) -> str | None:
    """``choice:x`` for a span that is a letter of multiple choice, with or without its text."""
    named = _NAMED.match(span)
    at = named.end() if named else 0
    brackets = _BRACKETS.match(span, at)
    match = brackets or _HALF_BRACKET.match(span, at) or _CAPITAL.match(span, at)
    match = match or _ALONE.match(span, at)
    if match is None and named is not None and named[1].lower() != "answer":
        match = _LETTER.match(span, at)
    if match is not None and not _goes_on(span, match.end(), brackets is not None):
        return "choice:" + match[1].lower()
    last = _LAST.search(span) if span[0] in _NUMBER_STARTS and span[-1] == ")" else None
    return None if last is None else "choice:" + last[1].lower()


def _goes_on(span: str, at: int, in_brackets: bool) -> bool:
    """Whether an operator or another choice follows the one that ends at ``at``."""
    if _OPERATOR.match(span, at) or (not in_brackets and _OR_MINUS.match(span, at)):
        return True
    return _ANOTHER.match(span, at) is not None or _ANY.search(span, at) is not None
