r"""When an answer is complete: the rules of stop-at-answer, over the bytes of a text.

An answer is complete at the first byte after which no continuation can change it. Byte ``p``
completes one if a rule holds for the last `WINDOW` bytes up to p, of which nothing earlier is seen:

1. box: ``}`` closes, braces balanced, ``\boxed{`` or ``\fbox{``, and a letter, digit or non-ASCII
   character stands between. The answer ends after the brace.
2. tag: ``>`` ends ``</answer>`` (any case), and a letter, digit or non-ASCII character stands
   between it and the last ``<answer>`` before. The answer ends after the tag.
3. hash: a line end closes a line that is ``####`` (or more) and a value. The answer ends before it.
4. phrase: ``.`` or ``!``, then any of ``"')*]``, then a blank or a line end; or a line end alone.
   Before it stand the last word ``answer`` or ``answers`` (any case), then ``is`` or ``:``, then a
   value; blanks, ``*`` and ``_`` between them do not matter, and a colon may follow ``is``. It ends
   after the full stop, or before the line end.

So ``The answer is 1`` completes nothing, nor does ``The answer is 1.``: ``12`` or ``1.5`` may come.
A value is, without any of ``$ * _ ( [ { " + - ~ \( \[`` and blanks before it and ``$ * _`` and
blanks after it, at most 64 bytes on one line of one of these forms:

- a number: begins with a digit, with ``.`` and a digit, or with ``\frac``, ``\dfrac``, ``\tfrac``;
  at most 5 words; no ``.`` before a blank in it (``1. First step`` is a heading); its last byte is
  none of ``+ - * / = , ( [ { < : \``;
- a choice: one letter A-J, or a-d; a-j too if a bracket stands before; a bracket may follow;
- yes, no, true or false in any case, alone or followed by a comma.

Prose, denials (``not 5``) and marks in other languages complete nothing: such a path goes on to its
end as without stop-at-answer, which costs tokens and never an answer. Between ``<think>`` and
``</think>`` nothing is complete, and no rule looks back past ``</think>``.

This module is the definition; ``csrc/cpu/match_stop.cc`` is its twin, line by line.
"""

from __future__ import annotations

WINDOW = 256
"""Bytes, up to the one that completes an answer, that the rules look at."""
_MAX_VALUE = 64
_MAX_WORDS = 5
_BLANK = b" \t\n\r"
_TRIGGERS = frozenset(b"}>" + _BLANK)


def completed_at(text: bytes, at: int) -> int:
    """Where the answer ends that byte ``at`` completes; -1 if it completes none.

    Args:
        text: a text, or its end: the last `WINDOW` bytes up to ``at`` suffice, and one more where
            the text begins earlier.
        at: index of a byte.
    """
    if text[at] not in _TRIGGERS:
        return -1
    low = max(0, at + 1 - WINDOW)
    end = _by_rule(text, low, at)
    if end >= 0:
        thought = text.rfind(b"</think>", low, at + 1)
        if thought >= 0:
            return _by_rule(text, thought + len(b"</think>"), at)
    return end


def _by_rule(text: bytes, low: int, at: int) -> int:
    byte = text[at]
    if byte == ord("}"):
        return _box(text, low, at)
    if byte == ord(">"):
        return _tag(text, low, at)
    if byte == ord("\n"):
        end = _hash(text, low, at)
        if end >= 0:
            return end
    stop = at - 1
    while stop >= low and text[stop] in b"\"')*]":
        stop -= 1
    if stop >= low and text[stop] in b".!":
        return stop + 1 if _phrase(text, low, stop) else -1
    return at if byte == ord("\n") and _phrase(text, low, at) else -1


def first_answer(text: bytes, begin: int = 0, thinking: bool = False) -> int:
    """Where the first answer ends that is completed at byte ``begin`` or later; -1: none is.

    ``thinking`` says whether the text begins inside ``<think>``.
    """
    for at, byte in enumerate(text):
        if byte not in _TRIGGERS:
            continue
        if byte == ord(">"):
            if text.endswith(b"<think>", 0, at + 1):
                thinking = True
            elif text.endswith(b"</think>", 0, at + 1):
                thinking = False
        if not thinking and at >= begin:
            end = completed_at(text, at)
            if end >= 0:
                return end
    return -1


def _box(text: bytes, low: int, at: int) -> int:
    if _escaped(text, low, at):
        return -1
    depth = 0
    for i in range(at, low - 1, -1):
        if text[i] not in b"{}" or _escaped(text, low, i):
            continue
        depth += 1 if text[i] == ord("}") else -1
        if depth <= 0:
            break
    else:
        return -1
    if depth < 0:
        return -1
    name = i
    while name > low and text[name - 1] in _BLANK:
        name -= 1
    named = text.endswith((b"\\boxed", b"\\fbox"), low, name)
    return at + 1 if named and _says_something(text, i + 1, at) else -1


def _escaped(text: bytes, low: int, at: int) -> bool:
    """Whether an odd number of backslashes stands before a byte."""
    first = at
    while first > low and text[first - 1] == ord("\\"):
        first -= 1
    return (at - first) % 2 == 1


def _says_something(text: bytes, begin: int, end: int) -> bool:
    return any(_is_word(byte) for byte in text[begin:end])


def _is_letter(byte: int) -> bool:
    return ord("a") <= byte | 0x20 <= ord("z")


def _is_digit(byte: int) -> bool:
    return ord("0") <= byte <= ord("9")


def _is_word(byte: int) -> bool:
    return _is_letter(byte) or _is_digit(byte) or byte >= 0x80


def _tag(text: bytes, low: int, at: int) -> int:
    window = text[low : at + 1].lower()
    if not window.endswith(b"</answer>"):
        return -1
    end = len(window) - len(b"</answer>")
    begin = window.rfind(b"<answer>", 0, end)
    if begin < 0:
        return -1
    return at + 1 if _says_something(window, begin + len(b"<answer>"), end) else -1


def _hash(text: bytes, low: int, at: int) -> int:
    line = text.rfind(b"\n", low, at) + 1
    if line == 0 and low > 0:
        return -1  # the line begins before the window
    while line < at and text[line] in b" \t":
        line += 1
    value = line
    while value < at and text[value] == ord("#"):
        value += 1
    return at if value - line >= 4 and _is_value(text, value, at) else -1


def _phrase(text: bytes, low: int, end: int) -> bool:
    """Whether a mark and a value fill the bytes before ``end``."""
    window = text[low:end].lower()
    at = window.rfind(b"answer")
    if at < 0 or (at > 0 and _is_letter(window[at - 1])):
        return False
    at += len(b"answer")
    if window[at : at + 1] == b"s":
        at += 1
    at = _skip(window, at, b" \t*_")
    if window[at : at + 2] == b"is" and not _is_letter((window[at + 2 : at + 3] or b" ")[0]):
        at = _skip(window, at + 2, b" \t*_")
        at += window[at : at + 1] == b":"
    elif window[at : at + 1] == b":":
        at += 1
    else:
        return False
    return _is_value(text, low + _skip(window, at, b" \t\r\n*_"), end)


def _skip(text: bytes, at: int, what: bytes) -> int:
    while at < len(text) and text[at] in what:
        at += 1
    return at


def _is_value(text: bytes, begin: int, end: int) -> bool:
    bracket = False
    while begin < end:
        byte = text[begin]
        if byte == ord("\\") and begin + 1 < end and text[begin + 1] in b"([":
            begin += 1
        elif byte in b"([":
            bracket = True
        elif byte not in b' \t$*_{"+-~':
            break
        begin += 1
    while end > begin and text[end - 1] in b" \t\r$*_":
        end -= 1
    size = end - begin
    if not 0 < size <= _MAX_VALUE or b"\n" in text[begin:end]:
        return False
    value = text[begin:end].lower()
    if _is_digit(value[0]) or (size > 1 and value[0] == ord(".") and _is_digit(value[1])):
        return _is_number(value)
    if value.startswith((b"\\frac", b"\\dfrac", b"\\tfrac")):
        return _is_number(value)
    if value in (b"yes", b"no", b"true", b"false"):
        return True
    if value.startswith((b"yes,", b"no,", b"true,", b"false,")):
        return True
    if size > 2 or not ord("a") <= value[0] <= ord("j") or (size == 2 and value[1] not in b")]"):
        return False
    return bracket or size == 2 or value[0] <= ord("d") or text[begin] != value[0]


def _is_number(value: bytes) -> bool:
    if value[-1] in b"+-*/=,([{<:\\":
        return False
    words = 0
    for i, byte in enumerate(value):
        if byte == ord(".") and value[i + 1 : i + 2] in (b" ", b"\t"):
            return False
        starts = _is_letter(byte) and (i == 0 or not _is_letter(value[i - 1]))
        words += starts
    return words <= _MAX_WORDS
