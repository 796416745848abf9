r"""Answers that are announced in words: ``the answer is 18``, ``Answer: 18``, and other languages.

A mark is, in any case of its ASCII letters, one of

- ``answer`` or ``answers``, at most 80 characters about what (after ``,``, ``(`` or a word such as
  ``to`` or ``of``; they hold no line end, colon, equals sign or full stop), then a verb (``is``,
  ``should be``, ``comes to``, ...; then perhaps an adverb such as ``therefore`` and ``option`` or
  ``choice``), a colon, an equals sign or an arrow; or ``answer`` at a line's end, a heading;
- ``correct``, ``right`` or ``best``, then ``option`` or ``choice``, then a verb or a colon;
- a reversed one (`reversed`);
- a mark of `marks.OTHER_LANGUAGES`.

Bold and italic signs may stand between the parts. What follows the mark is the clause, see
`clause_at`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastsi.vote.clean import strip_ends
from fastsi.vote.key import reference_key_of_answer as key_of_answer
from fastsi.vote.kinds import kind_of
from fastsi.vote.marks import BLANKS, LETTERS, MAX_MARKS, OTHER_LANGUAGES, SPACES, denies
from fastsi.vote.reversed import reversed_announced

MAX_CLAUSE = 400
"""Longest clause, in characters, that is read."""
MAX_PROSE = 10
"""Longest answer in prose, in words, that is believed."""


_ASCII = re.ASCII | re.IGNORECASE
# Possessive (``++``), and runs of blanks are bounded: nothing is tried twice.
_B = f"[{BLANKS}]{{0,8}}+"
_GLUE = rf"{_B}(?:\*\*?+|__?+)?+{_B}"
_VERB = (
    r"(?<![a-z])(?:is|are|was|would be|will be|should be|must be|has to be|equals|becomes"
    r"|comes to|comes out to|works out to|turns out to be)(?![a-z])"
)
_ADVERB = (
    rf"(?:(?:{_B},)?+[{BLANKS}]{{1,8}}+(?:therefore|thus|hence|then|so|still|simply|just|indeed"
    r"|actually|clearly|probably|likely|definitely|now|also)(?![a-z]))?+"
)
_ABOUT_WHAT = (
    rf"(?:[{BLANKS}]{{1,8}}+(?:to|of|for|in|here|then|choice|option|therefore|that|we|i)(?![a-z0-9_])"
    rf"|{_B}\(|,)(?:[^.\n:=]|\.(?=[0-9])){{0,80}}?"
)
_WORD = re.compile("answer", _ASCII)
_ANSWER = re.compile(
    rf"answers?+(?:{_ABOUT_WHAT})?{_GLUE}"
    rf"(?:{_VERB}{_ADVERB}(?:[{BLANKS}]{{1,8}}+(?:option|choice)(?![a-z]))?"
    r"|[:=\uff1a]>?+|->|\u2192)"
    rf"|answer{_B}(?:\*\*?+)?+{_B}(?=\n)",
    _ASCII,
)
_OPTION = re.compile(
    rf"(?:correct|right|best)[{BLANKS}]{{1,8}}+(?:option|choice){_GLUE}(?:{_VERB}|[:\uff1a])",
    _ASCII,
)
_LEAD = SPACES + "*_`:=\uff1a"
_END = re.compile(
    rf"\n|[.!?](?=[\"')*\]]*(?:[{SPACES}]|\Z|<|##))|(?<=[0-9)])\.(?=[A-Z][a-z])"
    r"|[\u3002\uff01\uff1f]"
    r"|<[|\uff5c/]|<eos>|<end|##"  # special tokens and headings that a model runs into
)
_ABBREVIATION = re.compile(
    rf"(?:\A|[{SPACES}(])(?:Mr|Mrs|Ms|Dr|St|Mt|Prof|vs|approx|ca|e\.g|i\.e|Rs)\Z"
)
_DISPLAY = re.compile(r"\\\[(.*?)\\\]|\$\$(.*?)\$\$|\\\((.*?)\\\)", re.DOTALL)
# As in Markdown, a dollar sign before a blank opens nothing and one before a digit closes nothing.
_FORMULA = re.compile(r"\$(?! )[^$\n]*[^$\n ]\$(?![0-9])")


def announced(text: str) -> str | None:
    """Key of what the last mark of ``text`` that announces something announces."""
    key = _first(text, _answer_marks(text))
    if key is None or kind_of(key) == "text":  # "Answer: The correct option is B."
        option = _first(text, _last_ends(_OPTION, text))
        if option is not None and (key is None or kind_of(option) != "text"):
            key = option
    if key is None:
        key = reversed_announced(text)
    if key is None:
        key = _first(text, _last_ends(OTHER_LANGUAGES, text), foreign=True)
    return key


def _answer_marks(text: str) -> Iterator[int]:
    words = [match.start() for match in _WORD.finditer(text)]
    for word in words[: -MAX_MARKS - 1 : -1]:
        match = _ANSWER.match(text, word)
        if match is not None:
            yield match.end()


def _last_ends(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    yield from [match.end() for match in pattern.finditer(text)][: -MAX_MARKS - 1 : -1]


def _first(text: str, marks: Iterator[int], foreign: bool = False) -> str | None:
    """Key of the first announcement, in the order of ``marks``, that says something.

    Prose that begins with a small letter (``in dollars``, ``what we wanted``) gives way to the
    number, choice or the like of another mark.
    """
    prose = None
    for mark in marks:
        clause, same_line = clause_at(text, mark)
        if not clause or denies(clause):
            continue
        key = _foreign_key(clause) if foreign else None
        if key is None:
            key = key_of_answer(clause)
        if key is None:
            continue
        if kind_of(key) != "text":
            return key
        if prose is None and same_line and clause.count(" ") < MAX_PROSE:
            prose = key
            if not _is_lower_prose(clause):
                break
    return prose


def _is_lower_prose(clause: str) -> bool:
    """Whether a clause is words alone and begins with a small letter."""
    return "a" <= clause[0] <= "z" and not any(char in "0123456789\\=+^/" for char in clause)


def _foreign_key(clause: str) -> str | None:
    """A choice letter of another alphabet, or the ASCII answer that words of another script follow.

    As in ``18 \\u5143`` or ``B \\u9009\\u9879``: those words hold no digit, and are no letters that
    formulas use.
    """
    letter = LETTERS.get(clause.strip("() "))
    if letter is not None:
        return "choice:" + letter
    script = next((at for at, char in enumerate(clause) if not char.isascii()), len(clause))
    rest = clause[script:]
    if not rest or not ("\u0400" <= rest[0] < "\u2000" or "\u2e80" <= rest[0] < "\ue000"):
        return None
    if any(char in "0123456789" for char in rest):
        return None
    key = key_of_answer(clause[:script])
    return None if key is None or kind_of(key) == "text" else key


def clause_at(text: str, start: int) -> tuple[str, bool]:
    """What is announced at ``start``, and whether it begins on the mark's own line.

    A displayed formula whole; else the words up to a line end, a ``.``, ``!`` or ``?`` before a
    blank, or a special token, but not inside a formula. Empty where no end is found.
    """
    window = text[start : start + MAX_CLAUSE]
    blank = len(window) - len(window.lstrip(_LEAD))
    same_line = "\n" not in window[:blank]
    window = window[blank:]
    display = _DISPLAY.match(window)
    if display is not None:
        return display[1] or display[2] or display[3] or "", True
    formulas = [match.span() for match in _FORMULA.finditer(window)] if "$" in window else []
    for match in _END.finditer(window):
        at = match.start()
        if any(low <= at < high for low, high in formulas):
            continue
        if match[0] == "." and _ABBREVIATION.search(window[max(0, at - 8) : at]):
            continue
        return strip_ends(window[:at]), same_line
    # A clause longer than the window is prose, not an answer.
    return (strip_ends(window) if start + MAX_CLAUSE >= len(text) else ""), same_line
