"""``parse`` and ``verify`` with the names, arguments and shapes of math-verify 0.9.

For code that does ``from math_verify import parse, verify``: import them from here, or set
``trl.rewards.accuracy_rewards.parse`` and ``.verify``. Time limits are taken and not needed:
nothing here runs long, sets a signal, or must be on the main thread. Equality is that of
canonical keys, an equivalence: unlike there, ``verify`` is symmetric and transitive. Roots and
polynomials are compared as normalised text, not by algebra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastsi.vote import answer_key, key_of_answer


def parse(
    pred: str,
    extraction_config: Sequence[Any] = (),
    fallback_mode: str = "first_match",
    extraction_mode: str = "any_match",
    parsing_timeout: float | None = 5,
    raise_on_error: bool = False,
) -> list[str]:
    """The answer that a text gives, as a list of one canonical key; empty where there is none.

    In order: what `fastsi.vote.answer_key` finds; a text that is one expression (no blanks, or
    between dollar signs, or LaTeX on one line) itself; its last number; a single line itself.

    Args:
        pred: a response, a worked solution, or a bare answer.
        extraction_config, fallback_mode, extraction_mode: taken and not used.
        parsing_timeout: taken and not needed.
        raise_on_error: taken and not needed: any text can be parsed.
    """
    text = pred.strip()
    key = answer_key(text)
    one_line = "\n" not in text
    if key is None and one_line and _is_expression(text):
        key = key_of_answer(text)
    if key is None:
        key = answer_key(text, last_number=True)
    if key is None and one_line:
        key = key_of_answer(text)
    return [] if key is None else [key]


def verify(
    gold: Sequence[str] | str,
    target: Sequence[str] | str,
    float_rounding: int = 6,
    numeric_precision: int = 15,
    strict: bool = True,
    allow_set_relation_comp: bool = False,
    timeout_seconds: float | None = 5,
    raise_on_error: bool = False,
) -> bool:
    """Whether an answer of ``target`` is one of ``gold``; both as `parse` returns them.

    Args:
        gold, target: keys, or one key.
        float_rounding, numeric_precision: taken and not needed: numbers are exact.
        strict, allow_set_relation_comp: taken and not used: sets, tuples and relations differ.
        timeout_seconds, raise_on_error: taken and not needed.
    """
    golds = [gold] if isinstance(gold, str) else list(gold)
    targets = [target] if isinstance(target, str) else list(target)
    return not set(golds).isdisjoint(targets)


def _is_expression(text: str) -> bool:
    dollars = len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text.strip("$")
    return dollars or " " not in text or text.startswith("\\")
