r"""Contents of ``\boxed{...}`` and ``\fbox{...}`` in a response."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

MAX_BOXES = 32
"""How many boxes, from the last one back, are looked at: bounds the work on repetitive text."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{", re.ASCII)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"\\(?:boxed|fbox)\s*([^\s{}$\\]+)", re.ASCII)


def boxes(text: str) -> Iterator[str]:
    """Contents of boxes, best first: complete from last to first, truncated, unbraced."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return
    starts = [match.end() for match in _BOX.finditer(text)]
    if starts:
        ends = _ends(text, starts)
        for start in itertools.islice((s for s in reversed(starts) if s in ends), MAX_BOXES):
            yield text[start : ends[start]]
        if starts[-1] not in ends:
            line = text[starts[-1] :].split("\n", 1)[0].split("$", 1)[0]
            # A cut inside \frac{1}{ has lost part of the answer itself.
            if line.count("{") == line.count("}"):
                yield line
    for match in list(_UNBRACED.finditer(text))[: -MAX_BOXES - 1 : -1]:
        yield match[1]


def _ends(text: str, starts: list[int]) -> dict[int, int]:
    """Start and end of every complete box, in one pass however deep they nest."""
    wanted, stack, ends = set(starts), [], {}
    for match in _BRACE.finditer(text, starts[0] - 1):
        if match[0] == "{":
            stack.append(match.end())
        elif match[0] == "}" and stack:
            start = stack.pop()
            if start in wanted:
                ends[start] = match.start()
    return ends
