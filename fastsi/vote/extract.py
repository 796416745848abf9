r"""Finds the answer in a response. The rules, in order:

1. Everything up to the last ``</think>`` is cut.
2. The response ends where another question begins: at ``Question:``, ``Q:``, ``Problem:`` (with or
   without a number and bold signs; other marks by ``run_on``) after a blank, unless nothing stands
   before it, or one of the words ``for``, ``to``, ``of``, ``in``, ``the``.
3. ``boxed``: the last ``\boxed{...}`` or ``\fbox{...}`` with balanced braces; if none is complete,
   the last truncated one, up to the end of its line or formula; then ``\boxed 18`` without braces.
4. ``tag``: the last ``<answer>...</answer>``; a truncated last one up to the end of its line.
5. ``hash``: the first ``#### x`` at the start of a line or after a blank whose x, up to the end of
   its line, the next ``##`` or a special token, is a number, choice, yes/no, tuple, ...: a
   Markdown heading, which has the same sign, is prose.
6. ``phrase``: the last ``answer is X``, ``answer: X``, ``Final Answer`` heading, else ``the correct
   option is X``, else ``X is the answer``, else such a mark in another language (`phrases` has the
   marks). X ends with its
   clause: at a line end, at ``.``, ``!`` or ``?`` before a blank, or at a special token, but not
   inside a formula. A mark announces nothing, and the one before it counts, where X denies (``not
   5``, ``unknown``), begins to reason (``Let's``), remarks (``correct``, ``an integer``), is prose
   of more than 10 words or starts as prose on the next line. Prose that begins with a small letter
   counts only where no mark before it announces a number, a choice or the like. At most 400
   characters of X are read.
7. ``bare``: a response of one short line that is nothing but a number with its unit, a choice,
   yes/no, a tuple, ...; or a last line that is nothing but a choice in brackets or yes/no.
8. ``last_number``, only on request: the last number of the text.

The first rule that yields a canonical key wins; a response without one abstains (None). The
extractor ``auto`` tries rules 3 to 7, any other one only its own rule after 1 and 2. ``choice`` and
``yes_no`` keep what ``auto`` finds if it is of that kind, else take the last ``(B)``, or the
response's opening yes or no.

Every rule is linear in the length of the text: candidates beyond the first or last 32 (marks in
words: 64) are not looked at. csrc/vote holds the compiled twin; this module is the definition.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fastsi._ext import load
from fastsi.errors import ConfigError
from fastsi.types import EXTRACTORS, RUN_ON_MARKS, check_known
from fastsi.vote.boxes import boxes
from fastsi.vote.clean import strip_ends
from fastsi.vote.key import reference_key_of_answer as key_of_answer
from fastsi.vote.kinds import kind_of
from fastsi.vote.marks import SPACES
from fastsi.vote.number import words_prefix
from fastsi.vote.phrases import announced

_core, _ = load("_C")

_MAX_CANDIDATES = 32
"""How many tags or hashes a rule looks at: bounds the work on repetitive text."""


def answer_key(
    text: str,
    *,
    extractor: str = "auto",
    last_number: bool = False,
    run_on: tuple[str, ...] = RUN_ON_MARKS,
) -> str | None:
    """Canonical key of the answer that a response gives.

    The C++ twin answers where it can; `reference_answer_key` is the definition.

    Args:
        text: the response, without its prompt.
        extractor: one of `EXTRACTORS`; see the module's rules.
        last_number: take the last number of the text if nothing else is found.
        run_on: words that, with a colon, begin another question.

    Returns:
        A key as described in `fastsi.vote.key`, or None if the response abstains.

    Raises:
        ConfigError: unknown extractor, or an empty word in ``run_on``.
    """
    options = _options(extractor, last_number, run_on)
    key = NotImplemented if _core is None else _core.answer_key(text, options)
    if key is NotImplemented:
        return reference_answer_key(
            text, extractor=extractor, last_number=last_number, run_on=run_on
        )
    found: str | None = key
    return found


def answer_keys(
    texts: Sequence[str],
    *,
    extractor: str = "auto",
    last_number: bool = False,
    run_on: tuple[str, ...] = RUN_ON_MARKS,
    threads: int | None = None,
) -> list[str | None]:
    """`answer_key` of every text, in one call that uses several threads and holds no lock.

    Args:
        texts: responses; the other arguments are as in `answer_key`.
        threads: at most this many; None: as many as torch uses if it is loaded, else one per
            processor.
    """
    options = _options(extractor, last_number, run_on)
    threads = thread_count() if threads is None else threads
    keys: list[Any] = (
        [NotImplemented] * len(texts)
        if _core is None
        else _core.answer_keys(texts, options, threads)
    )
    for index, key in enumerate(keys):
        if key is NotImplemented:
            keys[index] = reference_answer_key(
                texts[index], extractor=extractor, last_number=last_number, run_on=run_on
            )
    return keys


def thread_count() -> int:
    """Threads that a call on a CPU uses: torch's number where it is loaded, else one each."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.lru_cache(maxsize=64)
def _options(extractor: str, last_number: bool, run_on: tuple[str, ...]) -> Any:
    """The checked arguments as the C++ twin takes them; None where it is not built."""
    check_known([extractor], EXTRACTORS, "extractor")
    if "" in run_on:
        raise ConfigError("run_on: holds an empty word; give the words that begin a question")
    if _core is None:
        return None
    return _core.ExtractOptions(EXTRACTORS.index(extractor), last_number, list(run_on))


def reference_answer_key(
    text: str,
    *,
    extractor: str = "auto",
    last_number: bool = False,
    run_on: tuple[str, ...] = RUN_ON_MARKS,
) -> str | None:
    """What `answer_key` returns, in Python alone."""
    text = own_answer(text, run_on)
    for rule in _RULES[extractor]:
        key = rule(text)
        if key is not None:
            return key
    return _last_number(text) if last_number else None


def own_answer(text: str, run_on: tuple[str, ...] = RUN_ON_MARKS) -> str:
    """The response without its thinking and without an invented next question."""
    end_of_thought = text.rfind("</think>")
    if end_of_thought >= 0:
        text = text[end_of_thought + len("</think>") :]
    text = text.lstrip(SPACES)  # a mark at the very start, with no blank before it, restates
    if not run_on or not any(mark in text for mark in run_on):
        return text
    found = _run_on_pattern(run_on).search(text)
    return text if found is None else text[: found.start()]


@functools.lru_cache(maxsize=64)
def _run_on_pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(sorted(map(re.escape, marks), key=len, reverse=True))
    return re.compile(
        rf"(?<=[{SPACES}])(?<!for )(?<!to )(?<!of )(?<!in )(?<!the )"
        rf"[#*]*(?:{words})(?: ?#?[0-9]{{1,4}})?\**+[:\uff1a]",
        re.ASCII,
    )


def _boxed(text: str) -> str | None:
    return next((key for key in map(key_of_answer, boxes(text)) if key is not None), None)


_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE | re.ASCII)
_HASH_ANSWER = re.compile(r"(?:the )?(?:final )?answer(?: is)?:? *", re.IGNORECASE | re.ASCII)
_HASH_END = re.compile(r"\n|<[|\uff5c/]|<eos>|<end|##")


def _tag(text: str) -> str | None:
    if "<" not in text:
        return None
    tags = [(match[1] == "", match.start(), match.end()) for match in _TAG.finditer(text)]
    spans = [
        text[start:end]
        for (opens, _, start), (closes_not, end, _) in itertools.pairwise(tags)
        if opens and not closes_not
    ]
    if tags and tags[-1][0]:
        spans.append(text[tags[-1][2] :].lstrip(SPACES).split("\n", 1)[0])
    for span in spans[: -_MAX_CANDIDATES - 1 : -1]:
        key = announced(span) or key_of_answer(span)
        if key is not None:
            return key
    return None


def _hash(text: str) -> str | None:
    at = text.find("####")
    for _ in range(_MAX_CANDIDATES):
        if at < 0:
            break
        if at == 0 or text[at - 1] in SPACES:
            start = len(text) - len(text[at:].lstrip("# \t"))
            found = _HASH_END.search(text, start)
            content = text[start : len(text) if found is None else found.start()]
            said = _HASH_ANSWER.match(content)
            key = key_of_answer(content[said.end() :] if said else content)
            if key is not None and kind_of(key) != "text":
                return key
        end = text.find("\n", at)
        at = -1 if end < 0 else text.find("####", end)
    return None


_MAX_BARE = 64
_BARE_NUMBER = re.compile(
    r"[-+(\[{*_ \t\r\v\f]*+(?:[A-Za-z] ?= ?)?+[^A-Za-z0-9\n]{0,3}+[0-9][^A-Za-z]*+"
    r"(?:[A-Za-z]++[ .*!/^0-9]*+){0,3}+"
)
_LAST_LINE = re.compile(r"[*_ ]*+(?:\([A-J]\)|yes|no|true|false)[.*_ ]*+", re.IGNORECASE | re.ASCII)
_ANY_CHOICE = re.compile(r"(?<![A-Za-z0-9_])\(([A-J])\)|\*\*\(?([A-J])[).:]?\*\*")
_OPENING = re.compile(rf"[{SPACES}*\"']*+(yes|no|true|false)(?![a-z-])", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])[-\u2212]?+\$?+[0-9][0-9,]*+(?:\.[0-9]++)?+(?:/[0-9]++)?+(?![0-9A-Za-z])"
)


def _bare(text: str) -> str | None:
    line = text.strip(SPACES)
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
    return key_of_answer(numbers[-1].rstrip(",")) if numbers else None


_AUTO: tuple[Callable[[str], str | None], ...] = (_boxed, _tag, _hash, announced, _bare)


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
    "phrase": (announced,),
    "choice": (_choice,),
    "yes_no": (_yes_no,),
    "last_number": (_last_number,),
}
