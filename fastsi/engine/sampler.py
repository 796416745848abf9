"""From logits to tokens and log-probs: assembles the inputs of `ops.sample_tokens`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fastsi import ops
from fastsi.engine.config import LogprobsMode
from fastsi.engine.decode_run import DecodeRun, StopSearch
from fastsi.engine.requests import PathState
from fastsi.engine.rows import Int, RowTable
from fastsi.engine.staging import Array, to_device

_PARAMS = ("temperature", "top_k", "top_p", "min_p", "key")


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Tokens on the device, maybe still being drawn; entries beyond a step's own mean nothing."""

    slots: torch.Tensor
    """int64 [W], table slots."""
    token: torch.Tensor
    """int64 [W]; -1 where the logits are of no use."""
    logprob: torch.Tensor
    """[W], as reported to the caller, see `LogprobsMode`."""
    rows: torch.Tensor
    """int64 [W], rows of the logits that they are drawn from."""
    at: Int
    """int64 [D], in host memory: which entry belongs to each drawing slot of the step."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Settings on the device of the paths that drew last: most steps draw for the same ones."""

    slots: Int
    """`Step.draw_slots` itself, which is another array whenever a slot changes its path."""
    settings: dict[str, torch.Tensor]
    scored: bool
    adjusted: bool


class Sampler:
    """Draws from each path's own stream."""

    def __init__(self, mode: LogprobsMode, capacity: int, device: torch.device) -> None:
        """Set up for ``capacity`` table slots."""
        self._mode = mode
        self.last = torch.zeros(capacity + 1, dtype=torch.int64, device=device)
        """The token last drawn in each table slot; one more entry takes what nobody reads."""
        self._kept: _Kept | None = None

    def draw(self, logits: torch.Tensor, table: RowTable, slots: Int, rows: Int) -> Drawn:
        """Launch the draw of one token per slot; waits for nothing.

        Args:
            logits: [L, vocab].
            table: settings and streams of the slots.
            slots: D table slots.
            rows: the row of ``logits`` each slot draws from, int64 [D].
        """
        kept = self._kept_for(table, slots, logits.device)
        moving = {"position": table.num_out[slots], "draw_rows": rows}
        sent = kept.settings | to_device(moving, logits.device)
        adjust = _adjustments(table, slots, logits.device) if kept.adjusted else None
        token, logprob = self.sample(logits, sent, adjust=adjust, scored=kept.scored)
        # A row of NaN draws -1, which no embedding has; the error is raised when it lands.
        self.last[sent["draw_slots"]] = token.clamp(min=0)
        return Drawn(sent["draw_slots"], token, logprob, sent["draw_rows"], np.arange(len(slots)))

    def run(self, table: RowTable, slots: Int, most: int, search: StopSearch | None) -> DecodeRun:
        """How the slots' next ``most`` tokens are drawn, on a CPU and without adjustments.

        `last` does not get them: it is read where the host does not know a token yet.

        Args:
            table: settings and streams of the slots.
            slots: R table slots, none of them adjusted.
            most: N.
            search: of these slots.
        """
        kept = self._kept_for(table, slots, torch.device("cpu"))
        position = torch.from_numpy(table.num_out[slots])
        params = {name: kept.settings[name] for name in _PARAMS}
        shape = most, len(slots)
        drawn = ops.SampledTokens(
            token=torch.empty(shape, dtype=torch.int64),
            logprob=torch.empty(shape),
            logprob_full=torch.empty(shape),
            kept_mass=torch.empty(shape),
            logprob_raw=torch.empty(shape) if kept.scored else None,
        )
        count = int(table.top_count[slots].max())
        settings = ops.SampleParams(**params, position=position)
        indptr, ids = map(torch.from_numpy, table.stop_ids(slots))
        return DecodeRun(settings, drawn, indptr, ids, search, count)

    def settings(self, table: RowTable, slots: Int, rows: Int) -> dict[str, Array]:
        """All that `sample` reads besides the logits, one array per field."""
        return self._paths(table, slots) | {"position": table.num_out[slots], "draw_rows": rows}

    def _paths(self, table: RowTable, slots: Int) -> dict[str, Array]:
        """What does not change from token to token."""
        fields: dict[str, Array] = {name: getattr(table, name)[slots] for name in _PARAMS}
        return fields | {"plain": self._as_drawn(table, slots), "draw_slots": slots}

    def _kept_for(self, table: RowTable, slots: Int, device: torch.device) -> _Kept:
        if self._kept is None or self._kept.slots is not slots:
            fields = self._paths(table, slots)
            self._kept = _Kept(
                slots,
                to_device(fields, device),
                scored=self.needs_scores(fields),
                adjusted=bool(table.adjusted[slots].any()),
            )
        return self._kept

    def needs_scores(self, settings: Mapping[str, Array]) -> bool:
        """Whether some reported log-prob is not that of the draw."""
        return self._mode != "processed_logprobs" and not settings["plain"].all()

    def sample(
        self,
        logits: torch.Tensor,
        settings: Mapping[str, torch.Tensor],
        *,
        adjust: ops.LogitAdjust | None = None,
        scored: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and reported log-probs [D]; `last` does not get them yet. Can be recorded.

        Args:
            logits: [L, vocab].
            settings: what `settings` made, on the device.
            adjust: bias and penalties.
            scored: what `needs_scores` said.
        """
        params = ops.SampleParams(**{name: settings[name] for name in (*_PARAMS, "position")})
        rows = settings["draw_rows"]
        drawn = ops.sample_tokens(
            logits, params, row_index=rows, adjust=adjust, check=False, raw=scored
        )
        return drawn.token, self.reported(drawn)

    def reported(self, drawn: ops.SampledTokens) -> torch.Tensor:
        """The log-probs that the caller gets."""
        if self._mode == "processed_logprobs":
            return drawn.logprob
        # Where both are one number, they have the same bits.
        raw = drawn.logprob_raw
        return drawn.logprob_full if raw is None else raw

    def _as_drawn(self, table: RowTable, slots: Int) -> npt.NDArray[np.bool_]:
        """The slots whose reported log-prob is that of the draw over the whole vocabulary.

        Row by row: two ways to one number differ in their last bits, and which one a path gets must
        not depend on the rows beside it.
        """
        if self._mode != "raw_logprobs":
            return np.ones(len(slots), dtype=bool)
        temperature = table.temperature[slots]
        plain: npt.NDArray[np.bool_] = (temperature == 0) | (temperature == 1)
        return plain & ~table.adjusted[slots]


def _adjustments(table: RowTable, slots: Int, device: torch.device) -> ops.LogitAdjust | None:
    """Bias, bans and penalties of the rows that have any."""
    adjusted = np.flatnonzero(table.adjusted[slots])
    if not len(adjusted):
        return None
    sizes = np.zeros(len(slots) + 1, dtype=np.int64)
    ids: list[int] = []
    bias: list[float] = []
    count: list[int] = []
    in_prompt: list[int] = []
    repetition = np.ones(len(slots), dtype=np.float32)
    presence, frequency = np.zeros_like(repetition), np.zeros_like(repetition)
    for at in adjusted:
        slot = slots[at]
        path = table.paths[slot]
        assert path is not None
        p = path.params.params
        repetition[at] = p.repetition_penalty
        presence[at], frequency[at] = p.presence_penalty, p.frequency_penalty
        output = table.tokens[slot, : table.num_known[slot]].tolist()
        seen = Counter(output) if path.params.has_penalty else Counter[int]()
        prompt = set(path.group.prompt) if path.params.has_penalty else set()
        biases = _biases(path, len(output))
        listed = sorted({*seen, *prompt, *biases})
        sizes[at + 1] = len(listed)
        ids += listed
        bias += [biases.get(token, 0.0) for token in listed]
        count += [seen[token] for token in listed]
        in_prompt += [token in prompt for token in listed]
    fields: dict[str, Array] = {
        "indptr": np.cumsum(sizes),
        "token_ids": np.array(ids, dtype=np.int32),
        "bias": np.array(bias, dtype=np.float32),
        "count": np.array(count, dtype=np.int32),
        "in_prompt": np.array(in_prompt, dtype=np.uint8),
        "repetition": repetition,
        "presence": presence,
        "frequency": frequency,
    }
    return ops.LogitAdjust(**to_device(fields, device))


def _biases(path: PathState, generated: int) -> dict[int, float]:
    biases = {int(t): float(b) for t, b in (path.params.params.logit_bias or {}).items()}
    if generated < path.params.params.min_tokens:
        biases.update(dict.fromkeys(path.params.banned_ids, float("-inf")))
    return biases
