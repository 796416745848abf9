"""The tensors of `match_stop`: rules by class of rows, state by slot."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastsi.ops.match_stop.answers import WINDOW

TextRules = tuple[Sequence[str], bool, bool]
"""Stop strings, stop at a completed answer, leave special tokens out of the text."""


@dataclass(frozen=True, eq=False)
class StopRules:
    """What ends a text, by class of rows: stop strings, and whether a completed answer does."""

    class_indptr: torch.Tensor
    """int64 [C + 1]: class c has strings ``class_indptr[c]`` up to ``class_indptr[c + 1]``."""
    string_indptr: torch.Tensor
    """int64 [strings + 1]."""
    data: torch.Tensor
    """uint8, the strings' bytes."""
    answers: torch.Tensor
    """uint8 [C], 1: a completed answer ends the text."""
    special: torch.Tensor
    """uint8 [C], 1: special tokens are part of the text."""

    @classmethod
    def make(cls, classes: Sequence[TextRules]) -> StopRules:
        """From the rules of class 0, 1, ..."""
        bounds = [0, *itertools.accumulate(len(strings) for strings, _, _ in classes)]
        parts = [string.encode() for strings, _, _ in classes for string in strings]
        offsets = [0, *itertools.accumulate(map(len, parts))]
        data = torch.frombuffer(bytearray(b"".join(parts) or b"\0"), dtype=torch.uint8)
        return cls(
            class_indptr=torch.tensor(bounds, dtype=torch.int64),
            string_indptr=torch.tensor(offsets, dtype=torch.int64),
            data=data,
            answers=torch.tensor([answers for _, answers, _ in classes], dtype=torch.uint8),
            special=torch.tensor([not skip for _, _, skip in classes], dtype=torch.uint8),
        )

    @functools.cached_property
    def width(self) -> int:
        """Bytes of a text that must be remembered; found once, since on a GPU the host waits."""
        widest: int = max([WINDOW, *self.string_indptr.diff().tolist()])
        return widest

    def to(self, device: torch.device | str) -> StopRules:
        """The same rules on a device."""
        parts = (getattr(self, field.name).to(device) for field in dataclasses.fields(self))
        moved = StopRules(*parts)
        vars(moved)["width"] = self.width
        return moved


@dataclass(frozen=True, slots=True, eq=False)
class StopState:
    """The end of each slot's text; `match_stop` keeps it up to date."""

    rule: torch.Tensor
    """int32 [slots], class of the rules; -1: the slot is passed over."""
    tail: torch.Tensor
    """uint8 [slots, width], the last bytes."""
    length: torch.Tensor
    """int32 [slots], how many of them there are; less than width only where that is the text."""
    thinking: torch.Tensor
    """uint8 [slots], 1 inside ``<think>``."""

    @classmethod
    def make(cls, slots: int, width: int, device: torch.device | str = "cpu") -> StopState:
        """All slots passed over."""
        return cls(
            rule=torch.full((slots,), -1, dtype=torch.int32, device=device),
            tail=torch.zeros((slots, width), dtype=torch.uint8, device=device),
            length=torch.zeros(slots, dtype=torch.int32, device=device),
            thinking=torch.zeros(slots, dtype=torch.uint8, device=device),
        )

    def begin(self, slot: int, rule: int, text: bytes = b"", thinking: bool = False) -> None:
        """Set a slot to the text that it has already; ``thinking`` is how that text begins."""
        kept, inside = end_of(text, self.tail.shape[1], thinking)
        self.rule[slot], self.length[slot], self.thinking[slot] = rule, len(kept), inside
        there = torch.tensor(list(kept), dtype=torch.uint8, device=self.tail.device)
        self.tail[slot, : len(kept)] = there


def end_of(text: bytes, width: int, thinking: bool = False) -> tuple[bytes, bool]:
    """What a state keeps of a text: its last ``width`` bytes, and whether it ends in ``<think>``.

    Args:
        text: all there is so far, or the end of it.
        width: as in `StopState.tail`.
        thinking: whether ``text`` begins inside ``<think>``.
    """
    opened, closed = text.rfind(b"<think>"), text.rfind(b"</think>")
    return text[-width:], thinking if opened == closed else opened > closed
