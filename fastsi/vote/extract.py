r"""Finds the answer in a response. The rules, in order:

1. Everything up to the last ``</think>`` is cut.
2. The response ends where another question begins: at ``Question:``, ``Q:``, ``Problem:`` (with or
   without a number; other marks by ``run_on``) after a blank, unless nothing stands before it.
3. ``boxed``: the last ``\boxed{...}`` or ``\fbox{...}`` with balanced braces; if none is complete,
   the last truncated one, up to the end of its line; then ``\boxed 18`` without braces.
4. ``tag``: the last ``<answer>...</answer>``; a truncated last one up to the end of its line.
5. ``hash``: the first ``#### x`` whose x is a number, choice, yes/no, tuple, ...: a Markdown
   heading, which has the same sign, is prose.
6. ``phrase``: the last ``answer is X``, ``answer: X``, ``Final Answer`` heading, else ``the correct
   option is X``, else such a mark in another language. X ends with its clause: at a line end, at
   ``.``, ``!`` or ``?`` before a blank, or at a special token, but not inside a formula. A mark
   announces nothing, and the one before it counts, where X denies (``not 5``, ``unknown``), begins
   to reason (``Let's``), is prose of more than 10 words or starts as prose on the next line. At
   most 400 characters of X and the last 32 marks are looked at.
7. ``bare``: a response of one short line that is nothing but a number with its unit, a choice,
   yes/no, a tuple, ...; or a last line that is nothing but a choice in brackets or yes/no.
8. ``last_number``, only on request: the last number of the text.

The first rule that yields a canonical key wins; a response without one abstains (None). The
extractor ``auto`` tries rules 3 to 7, any other one only its own rule after 1 and 2. ``choice`` and
``yes_no`` keep what ``auto`` finds if it is of that kind, else take the last ``(B)``, or the
response's opening yes or no.

Every rule is linear in the length of the text.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator

from fastsi.types import check_known
from fastsi.vote.clean import strip_ends
from fastsi.vote.key import key_of_answer
from fastsi.vote.kinds import kind_of
from fastsi.vote.marks import OTHER_LANGUAGES, RUN_ON_MARKS, STEMS
from fastsi.vote.number import words_prefix

_MAX_CLAUSE = 400
"""Longest clause, in characters, that the phrase rule reads."""
_MAX_PROSE = 10
"""Longest answer in prose, in words, that the phrase rule believes."""
_MAX_MARKS = 32
"""How many marks, from the last one back, a rule looks at: bounds the work on repetitive text."""


def answer_key(
    text: str,
    *,
    extractor: str = "auto",
    last_number: bool = False,
    run_on: tuple[str, ...] = RUN_ON_MARKS,
) -> str | None:
    """Canonical key of the answer that a response gives.

    Args:
        text: the response, without its prompt.
        extractor: one of `EXTRACTORS`; see the module's rules.
        last_number: take the last number of the text if nothing else is found.
        run_on: words that, with a colon, begin another question.

    Returns:
        A key as described in `fastsi.vote.key`, or None if the response abstains.

    Raises:
        ConfigError: unknown extractor.
    """
    rules = _RULES.get(extractor)
    if rules is None:
        check_known([extractor], EXTRACTORS, "extractor")
        raise AssertionError("unreachable: check_known refuses what the table lacks")
    text = own_answer(text, run_on)
    for rule in rules:
        key = rule(text)
        if key is not None:
            return key
    return _last_number(text) if last_number else None


def own_answer(text: str, run_on: tuple[str, ...] = RUN_ON_MARKS) -> str:
    """The response without its thinking and without an invented next question."""
    end_of_thought = text.rfind("</think>")
    if end_of_thought >= 0:
        text = text[end_of_thought + len("</think>") :]
    text = (
        text.lstrip()
    )  # a mark at the very start restates the question; it has no blank before it
    if ":" not in text or not any(mark in text for mark in run_on):
        return text
    found = _run_on_pattern(run_on).search(text)
    return text if found is None else text[: found.start()]


@functools.lru_cache(maxsize=64)
def _run_on_pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(sorted(map(re.escape, marks), key=len, reverse=True))
    return re.compile(rf"(?<=\s)[#*]*(?:{words})(?:[ ]?[0-9]{{1,4}})?[*]*:")


# --- boxed --------------------------------------------------------------------------------------

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"\\(?:boxed|fbox)\s*([^\s{}$\\]+)")


def _boxed(text: str) -> str | None:
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    for content in _boxes(text):
        key = key_of_answer(content)
        if key is not None:
            return key
    return None


def _boxes(text: str) -> Iterator[str]:
    """Contents of boxes, best first: complete from last to first, truncated, unbraced."""
    starts = [match.end() for match in _BOX.finditer(text)]
    if starts:
        last = _closing(text, starts[-1])
        if last is not None:
            yield text[starts[-1] : last]
        closed = _closings(text, starts)
        for start in reversed(starts):
            if start in closed and not (start == starts[-1] and last is not None):
                yield text[start : closed[start]]
        if last is None:
            line = text[starts[-1] :].split("\n", 1)[0].split("$", 1)[0]
            # A cut inside \frac{1}{ has lost part of the answer itself.
            if line.count("{") == line.count("}"):
                yield line
    for match in reversed(list(_UNBRACED.finditer(text))):
        yield match[1]


def _closing(text: str, start: int) -> int | None:
    """Index of the brace that closes the group whose content begins at ``start``."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return None


def _closings(text: str, starts: list[int]) -> dict[int, int]:
    """Start and end of every complete box, in one pass however deep they nest."""
    wanted, stack, closed = set(starts), [], {}
    for match in _BRACE.finditer(text, starts[0] - 1):
        if match[0] == "{":
            stack.append(match.end())
        elif match[0] == "}" and stack:
            start = stack.pop()
            if start in wanted:
                closed[start] = match.start()
    return closed


# --- tags, hashes -------------------------------------------------------------------------------

_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_HASH_ANSWER = re.compile(r"(?:the )?(?:final )?answer(?: is)?:? *", re.IGNORECASE)


def _tag(text: str) -> str | None:
    if "<" not in text:
        return None
    tags = [(match[1] == "", match.start(), match.end()) for match in _TAG.finditer(text)]
    if tags and tags[-1][0]:
        line = text[tags[-1][2] :].lstrip().split("\n", 1)[0]
        tags.append((False, len(text), len(text)))
        key = _phrase(line) or key_of_answer(line)
        if key is not None:
            return key
    for (opens, _, start), (closes_not, end, _) in reversed(list(itertools.pairwise(tags))):
        if opens and not closes_not:
            key = _phrase(text[start:end]) or key_of_answer(text[start:end])
            if key is not None:
                return key
    return None


def _hash(text: str) -> str | None:
    at = text.find("####")
    while at >= 0:
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if at == 0 or text[at - 1].isspace():
            content = text[at:end].lstrip("# \t")
            announced = _HASH_ANSWER.match(content)
            key = key_of_answer(content[announced.end() :] if announced else content)
            if key is not None and kind_of(key) != "text":
                return key
        at = text.find("####", end)
    return None


# --- phrases ------------------------------------------------------------------------------------

_GLUE = r"[ \t]*(?:\*{1,2}|_{1,2})?[ \t]*"
_VERB = (
    r"(?<![A-Za-z])(?:is|are|was|would be|will be|should be|must be|equals|comes to)(?![A-Za-z])"
)
_ABOUT_WHAT = (
    r"(?:[ \t]+(?:to|of|for|in|here|then|choice|option|therefore)\b(?!s)|,)[^.\n:=]{0,80}?"
)
_AFTER_ANSWER = re.compile(
    rf"(?:answers?(?:{_ABOUT_WHAT})?{_GLUE}"
    rf"(?:{_VERB}(?:[ \t]+(?:option|choice)(?![A-Za-z]))?{_GLUE}[:=]?|[:=\uff1a]){_GLUE}"
    r"|answer[ \t]*(?:\*{1,2})?[ \t]*(?=\n))",
    re.IGNORECASE,
)
_OPTION = re.compile(
    rf"(?:correct|right|best)[ \t]+(?:option|choice){_GLUE}(?:{_VERB}|:){_GLUE}:?{_GLUE}",
    re.IGNORECASE,
)
_END = re.compile(
    r"\n|[.!?](?=[\"')*\]]*(?:\s|$|<|##))|(?<=[0-9)])\.(?=[A-Z][a-z])|[\u3002\uff01\uff1f]"
    r"|<\||</s>|<eos>|##"  # special tokens and headings that a model runs into
)
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|St|Mt|Prof|vs|approx|ca|e\.g|i\.e|Rs)$")
_DISPLAY = re.compile(r"\\\[(.*?)\\\]|\$\$(.*?)\$\$|\\\((.*?)\\\)", re.DOTALL)
# As in Markdown, a dollar sign before a blank opens nothing and one before a digit closes nothing.
_FORMULA = re.compile(r"\$(?! )[^$\n]*[^$\n ]\$(?![0-9])")
_NOTHING = re.compile(
    r"(?:not\b|unknown|unclear|unsure|undetermined|uncertain|n/a|none given|still\b|let'?s?\b"
    r"|first\b|we \w|i (?:do not|don't|am not|think)|to (?:find|solve|get)|step\b|\.\.\.|_+$)",
    re.IGNORECASE,
)


def _phrase(text: str) -> str | None:
    key = _announced(text, _english_marks(text))
    if key is None and ("ption" in text or "hoice" in text):
        key = _announced(text, _ends(_OPTION, text))
    if key is None and any(stem in text for stem in STEMS):
        key = _announced(text, _ends(OTHER_LANGUAGES, text))
    return key


def _announced(text: str, marks: Iterator[int]) -> str | None:
    """Key of the first announcement, in the order of ``marks``, that says something."""
    for mark in itertools.islice(marks, _MAX_MARKS):
        clause, same_line = _clause(text, mark)
        if not clause or _NOTHING.match(clause):
            continue
        key = key_of_answer(clause)
        if key is None:
            continue
        if kind_of(key) == "text" and not (same_line and clause.count(" ") < _MAX_PROSE):
            continue
        return key
    return None


def _english_marks(text: str) -> Iterator[int]:
    """Ends of the marks made with the word answer, last first."""
    if "nswer" not in text and "NSWER" not in text:
        return
    at = len(text)
    while (at := max(text.rfind("nswer", 0, at), text.rfind("NSWER", 0, at))) > 0:
        match = _AFTER_ANSWER.match(text, at - 1)
        if match is not None:
            yield match.end()


def _ends(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    yield from reversed([match.end() for match in pattern.finditer(text)])


def _clause(text: str, start: int) -> tuple[str, bool]:
    """What is announced at ``start``, and whether it begins on the mark's own line.

    A displayed formula whole, or the words up to the end of the clause.
    """
    window = text[start : start + _MAX_CLAUSE]
    blank = len(window) - len(window.lstrip(" \t\n\r*_:"))
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
        if match[0] == "." and _ABBREVIATION.search(window, 0, at):
            continue
        return strip_ends(window[:at]), same_line
    # A clause longer than the window is prose, not an answer.
    return (strip_ends(window) if start + _MAX_CLAUSE >= len(text) else ""), same_line


# --- bare answers, kinds, numbers ---------------------------------------------------------------

_MAX_BARE = 64
_BARE_NUMBER = re.compile(
    r"[-+(\[{*_\s]*(?:[A-Za-z] ?= ?)?[^A-Za-z0-9\n]{0,3}[0-9][^A-Za-z]*(?:[A-Za-z]+[ .*]*){0,3}"
)
_LAST_LINE = re.compile(r"[*_ ]*(?:\([A-Ja-j]\)|(?:yes|no|true|false))[.*_ ]*", re.IGNORECASE)
_ANY_CHOICE = re.compile(r"(?<![A-Za-z0-9_])\(([A-J])\)|\*\*\(?([A-J])[).:]?\*\*")
_OPENING = re.compile(r"[\s*\"']*(yes|no|true|false)(?![A-Za-z-])", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])-?\$?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?(?![0-9A-Za-z])")


def _bare(text: str) -> str | None:
    line = text.strip()
    if len(line) <= _MAX_BARE and "\n" not in line:
        key = key_of_answer(line)
        kind = "text" if key is None else kind_of(key)
        # "One day Tom ..." starts with a number too: words there must spell nothing else.
        if kind != "text" and (kind != "num" or _BARE_NUMBER.fullmatch(line) or _is_number(line)):
            return key
    last_line = line[line.rfind("\n") + 1 :]
    return key_of_answer(last_line) if _LAST_LINE.fullmatch(last_line) else None


def _is_number(line: str) -> bool:
    """Whether a line is a number in words and nothing else."""
    found = words_prefix(strip_ends(line))
    return found is not None and found[1] == len(strip_ends(line))


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return key_of_answer(numbers[-1].rstrip(",.")) if numbers else None


_AUTO: tuple[Callable[[str], str | None], ...] = (_boxed, _tag, _hash, _phrase, _bare)


def _of_kind(text: str, kind: str) -> str | None:
    for rule in _AUTO:
        key = rule(text)
        if key is not None:
            return key if kind_of(key) == kind else None
    return None


def _choice(text: str) -> str | None:
    key = _of_kind(text, "choice")
    if key is None and (found := _ANY_CHOICE.findall(text)):
        key = "choice:" + "".join(found[-1]).lower()
    return key


def _yes_no(text: str) -> str | None:
    key = _of_kind(text, "bool")
    if key is None and (match := _OPENING.match(text)):
        key = key_of_answer(match[1])
    return key


_RULES: dict[str, tuple[Callable[[str], str | None], ...]] = {
    "auto": _AUTO,
    "boxed": (_boxed,),
    "tag": (_tag,),
    "hash": (_hash,),
    "phrase": (_phrase,),
    "choice": (_choice,),
    "yes_no": (_yes_no,),
    "last_number": (_last_number,),
}
EXTRACTORS = tuple(_RULES)
"""Names that ``extractor`` accepts."""
