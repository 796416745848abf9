"""The process that does the algebra of `fastsi.vote.symbolic`; run as a script, never imported.

One JSON object per line in, one out: ``{"read": text}`` gives whether the text is an expression,
``{"equal": [a, b]}`` whether two texts are provably the same one. Parsing is that of
latex2sympy2-extended; equality is sympy's, and math-verify's for relations, sets, tuples and
matrices. The process may hang or run out of memory: whoever asks has a time limit and kills it.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import re
import resource
import sys
import threading
import time
from typing import Any, TextIO

_MEMORY_BYTES = 4 << 30
_MAX_LENGTH = 400
"""Longest text that is read, in characters."""
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|infty"
_BARE_FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?![a-zA-Z])")
_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\s*\(")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_PROSE = re.compile(r"\\(?:text|mathrm|mbox|textbf|operatorname|mathbf)\b")
_WORD = re.compile(r"[a-zA-Z]+")
_VARIABLES = re.compile(r"[a-zA-Z]|[abckmnpqrstuvwxyz]{2}")
"""A letter, or a product of two that are common names of variables: ``ab``, ``xy``."""


def as_latex(text: str) -> str | None:
    """The text as LaTeX, or None where it has words: these would be read as products of letters."""
    if len(text) > _MAX_LENGTH or not text.isascii() or _PROSE.search(text):
        return None
    while match := _ROOT.search(text):
        end = _closing(text, match.end())
        if end is None:
            return None
        text = f"{text[: match.start()]}\\sqrt{{{text[match.end() : end]}}}{text[end + 1 :]}"
    text = _BARE_FUNCTION.sub(r"\\\1 ", text)
    words = _WORD.findall(_COMMAND.sub(" ", text))
    return text if all(_VARIABLES.fullmatch(word) for word in words) else None


def _closing(text: str, start: int) -> int | None:
    """Where the bracket that was opened before ``start`` is closed."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return None


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Any:
    """The sympy object that a text stands for, or None."""
    from latex2sympy2_extended import latex2sympy

    latex = as_latex(text)
    if latex is None:
        return None
    try:
        return latex2sympy(latex, is_real=None, convert_degrees=False, normalization_config=None)
    except Exception:  # whatever the grammar throws: the text is no expression
        return None


def equal(first: str, second: str) -> bool:
    """Whether two texts are provably the same; False where nothing is proved."""
    import sympy
    from math_verify import verify

    a, b = read(first), read(second)
    if a is None or b is None:
        return False
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        # Not math-verify's: it rounds to six decimals, and so would merge what is merely close.
        a, b = (  # decimals as the fractions they are written as
            each.xreplace({f: sympy.Rational(str(f)) for f in each.atoms(sympy.Float)})
            for each in (a, b)
        )
        return a == b or (a - b).equals(0) is True
    if isinstance(a, sympy.Expr) or isinstance(b, sympy.Expr):
        return False
    pairs = ((a, b), (b, a))
    return all(verify([x], [y], strict=True, timeout_seconds=None) for x, y in pairs)


def answer(request: dict[str, Any]) -> bool:
    """One request."""
    try:
        if "read" in request:
            return read(request["read"]) is not None
        return equal(*request["equal"])
    except (MemoryError, RecursionError):
        raise
    except Exception:  # sympy may raise anything on odd expressions: nothing is proved
        return False


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the other end closes."""
    # Loaded here, before the first time limit runs.
    importlib.import_module("latex2sympy2_extended")
    importlib.import_module("math_verify")
    logging.disable(logging.CRITICAL)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in requests:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def _leave_with(parent: int) -> None:
    """End this process when the one that started it has ended, also inside a long computation."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def main() -> None:
    """Serve on standard input and output; what libraries print is thrown away."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
