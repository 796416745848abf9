"""Public faces of `match_stop`: checks and the choice of a backend."""

from __future__ import annotations

import torch

from fastsi.ops import _checks, _registry
from fastsi.ops.match_stop.state import StopRules, StopState
from fastsi.ops.token_bytes import TokenBytes


def match_stop(
    tokens: torch.Tensor,
    slots: torch.Tensor,
    table: TokenBytes,
    rules: StopRules,
    state: StopState,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """Append one token to the text of each slot and say which texts may end with it.

    A hit means that the token's bytes complete a stop string of the slot's class, or, where the
    class asks for it, an answer (the rules are in `fastsi.ops.match_stop.answers`). The result of a
    text does not depend on how it is cut into tokens. A stop string or answer is reported with the
    token that completes it and not again.

    Args:
        tokens: int64 [R].
        slots: int64 [R], no slot twice; slots whose ``state.rule`` is -1 are passed over.
        table: bytes of every token, on the device of the tokens, as all that follows; tokens
            beyond it spell nothing.
        rules: what ends a text, by class.
        state: of all slots, at least ``rules.width`` bytes wide; modified.
        backend: a name, or "auto".

    Returns:
        uint8 [R], 1 for a hit, on the device of the arguments.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or, on a CPU, a slot is out of range; on
            a GPU such a row is no hit.
        BackendUnavailable: the requested backend cannot run.
    """
    _checks.require_shape("tokens", tokens, (None,))
    _checks.require_shape("slots", slots, tuple(tokens.shape))
    for name, tensor in (("tokens", tokens), ("slots", slots)):
        _checks.require_dtype(name, tensor, torch.int64)
    for name, tensor in (
        ("slots", slots),
        ("table.data", table.data),
        ("rules.data", rules.data),
        ("state.tail", state.tail),
    ):
        _checks.require_device(name, tensor, tokens.device)
    if state.tail.shape[1] < rules.width:
        raise ValueError(f"state: holds {state.tail.shape[1]} bytes, must hold {rules.width}")
    run = _registry.choose("match_stop", _registry.facts(tokens), backend)
    hits: torch.Tensor = run(tokens, slots, table, rules, state)
    return hits


def answer_end(text: str, begin: int = 0, *, backend: str = "auto") -> int | None:
    """Where the first completed answer of a text ends, characters; None if none is complete.

    ``text[: answer_end(text)]`` is what a path that stops at its answer would have written: the
    rules are those of `match_stop`. A text that merely ends after its answer has none complete, and
    is not cut.

    Args:
        text: a response.
        begin: look only for answers completed at this character or later.
        backend: a name, or "auto".
    """
    facts = _registry.Facts("cpu", torch.int64)
    first_answer = _registry.choose("match_stop", facts, backend, "first_answer")
    data = text.encode("utf-8", "surrogatepass")
    end = first_answer(data, len(text[:begin].encode("utf-8", "surrogatepass")))
    return None if end < 0 else len(data[:end].decode("utf-8", "surrogatepass"))
