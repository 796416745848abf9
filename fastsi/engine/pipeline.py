"""Steps that have been launched and whose tokens the host has not read yet.

While the device runs a step, the host chooses and launches the next one, taking every path to go
on, and only then reads the tokens of the first. Two things make this safe. Inputs come from the
device: the token that a path drew last is kept there by table slot (`Sampler.last`). And what the
host frees is used again only by steps launched later, which the device runs later: a path that
turns out to have ended has one row too many in flight, whose token is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fastsi import ops
from fastsi.engine.logprobs import Likeliest
from fastsi.engine.plan import Step
from fastsi.engine.rows import Int, RowTable
from fastsi.engine.sampler import Drawn
from fastsi.engine.staging import Array, Readback


@dataclass(frozen=True, slots=True, eq=False)
class Landed:
    """Tokens of a step, of the paths that still have their slots."""

    slots: Int
    at: Int
    """Which output token of its path each one is."""
    tokens: Int
    logprobs: npt.NDArray[np.float64]
    hits: npt.NDArray[np.bool_] | None
    """Which texts may end with their token; None: nothing on the device has looked."""
    likeliest: tuple[Int, list[Array]] | None
    """Which of the tokens have the likeliest ones beside them, and those: `ops.TopLogprobs`."""
    num_dropped: int
    """Tokens of paths that had ended before, or were cancelled."""


class Flight:
    """One launched step."""

    def __init__(
        self,
        step: Step,
        table: RowTable,
        drawn: Drawn,
        hits: torch.Tensor | None,
        likeliest: Likeliest | None,
    ) -> None:
        """Remember whose tokens these are; the table may change before they are read."""
        self.slots, self._rows = step.draw_slots, step.draw_rows
        self._num_out, self._owner = table.num_out[self.slots], table.owner[self.slots]
        self._entries = drawn.at
        self._looked = hits is not None
        self._likeliest_of = None if likeliest is None else likeliest.of
        copied = [drawn.token, drawn.logprob]
        copied += [] if hits is None else [hits]
        copied += [] if likeliest is None else likeliest.found
        self._back = Readback(*copied) if len(self.slots) else None

    def land(self, table: RowTable) -> Landed:
        """Wait for the tokens.

        Raises:
            NumericalError: the logits of a path that goes on were of no use.
        """
        if self._back is None:  # a step of prefill alone: nothing to wait for
            none = np.empty(0, dtype=np.int64)
            return Landed(none, none, none, none.astype(np.float64), None, None, 0)
        ours = table.owner[self.slots] == self._owner
        tokens, logprobs, *more = self._back.wait()
        hits = more.pop(0)[self._entries[ours]].astype(bool) if self._looked else None
        tokens, logprobs = (part[self._entries[ours]] for part in (tokens, logprobs))
        ops.require_drawn(tokens, self._rows[ours])
        likeliest = None
        if self._likeliest_of is not None:
            kept = ours[self._likeliest_of]
            place = np.cumsum(ours) - 1  # among the tokens that are read
            likeliest = place[self._likeliest_of[kept]], [part[kept] for part in more]
        return Landed(
            slots=self.slots[ours],
            at=self._num_out[ours],
            tokens=tokens.astype(np.int64),
            logprobs=logprobs.astype(np.float64),
            hits=hits,
            likeliest=likeliest,
            num_dropped=int((~ours).sum()),
        )


class Pipeline:
    """At most one step in flight while the next is chosen."""

    def __init__(self, *, ahead: bool) -> None:
        """``ahead``: launch steps before the tokens of the last one are known, where possible."""
        self.ahead = ahead
        self.flight: Flight | None = None

    def launch(self, flight: Flight) -> Flight | None:
        """Put a step into flight whose tokens are being drawn; returns the one that was there."""
        before, self.flight = self.flight, flight
        return before

    def take(self) -> Flight | None:
        """The step in flight, which is then no longer there."""
        flight, self.flight = self.flight, None
        return flight

    def must_land(self, step: Step, table: RowTable) -> bool:
        """Whether the host needs the results of ``step`` before it can choose the next one.

        Penalties count tokens on the host, and scores end paths.
        """
        return not self.ahead or step.scores or bool(table.adjusted[step.draw_slots].any())
