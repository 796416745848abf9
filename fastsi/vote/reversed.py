"""Answers that stand before their mark: ``18 is the answer``, ``(B) is the correct option``.

The mark is ``is``, then ``the``, ``my`` or ``our``, perhaps ``final``, ``correct``, ``right`` or
``best``, and ``answer``, ``option`` or ``choice``. The answer is the one word before it, where that
is no prose. A choice letter without brackets must begin its sentence or follow a word such as
``option`` or ``so``. ``is correct`` and ``is right`` are marks after a letter in brackets, and
after ``option`` or ``choice`` and a letter.
"""

from __future__ import annotations

import re

from fastsi.vote.key import reference_key_of_answer as key_of_answer
from fastsi.vote.kinds import kind_of
from fastsi.vote.marks import MAX_MARKS, SPACES

_REVERSED = re.compile(
    r"(?<= )is (?:(?:the|my|our) (?:(?:final|correct|right|best) )?(?:answer|option|choice)"
    r"|(correct|right))(?![a-z])",
    re.ASCII | re.IGNORECASE,
)
_MAX_WORD = 24
_BEFORE_LETTER = frozenset(
    ("option", "choice", "letter", "so", "thus", "therefore", "hence", "then", "that")
)


def reversed_announced(text: str) -> str | None:
    """Key of the last ``X is the answer``."""
    for match in list(_REVERSED.finditer(text))[: -MAX_MARKS - 1 : -1]:
        end = match.start() - 1
        begin = end
        while begin > 0 and end - begin < _MAX_WORD and text[begin - 1] not in SPACES:
            begin -= 1
        if begin > 0 and text[begin - 1] not in SPACES:
            continue
        key = key_of_answer(text[begin:end])
        if key is None or kind_of(key) == "text":
            continue
        if kind_of(key) == "choice" or match[1]:
            is_letter = kind_of(key) == "choice"
            lead = _word_before(text, begin)
            named = text[begin] == "(" or lead in ("option", "choice")
            free = not match[1] and (lead == "" or lead in _BEFORE_LETTER)
            if not is_letter or not (named or free):
                continue
        return key
    return None


def _word_before(text: str, at: int) -> str:
    """The word before the blanks before ``at``, in lower case; empty at the start of a sentence."""
    end = at
    while end > 0 and at - end < 8 and text[end - 1] in SPACES:
        end -= 1
    if end == 0 or "\n" in text[end:at] or text[end - 1] in ".:;!?,*":
        return ""
    begin = end
    while begin > 0 and end - begin < _MAX_WORD and _is_letter(text[begin - 1]):
        begin -= 1
    return text[begin:end].lower() if begin < end else "?"


def _is_letter(char: str) -> bool:
    return char.isascii() and char.isalpha()
