"""Per-row settings and results of `sample_tokens`, one tensor per field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_PARAM_DTYPES = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "min_p": torch.float32,
    "key": torch.int64,
    "position": torch.int64,
}
_ADJUST_DTYPES = {
    "indptr": torch.int64,
    "token_ids": torch.int32,
    "bias": torch.float32,
    "count": torch.int32,
    "in_prompt": torch.uint8,
    "repetition": torch.float32,
    "presence": torch.float32,
    "frequency": torch.float32,
}


def _check_field(owner: str, name: str, tensor: torch.Tensor, dtype: torch.dtype, n: int) -> None:
    if tensor.dtype != dtype or tensor.dim() != 1 or tensor.shape[0] != n:
        raise ValueError(
            f"{owner}.{name}: is {tensor.dtype} {list(tensor.shape)}, must be {dtype} [{n}]"
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleParams:
    """How to draw each of R rows; every field is [R]. Values must be in range: see each field."""

    temperature: torch.Tensor
    """float32 >= 0; 0 takes the first maximum."""
    top_k: torch.Tensor
    """int32; 0 (or less) keeps all tokens."""
    top_p: torch.Tensor
    """float32 in (0, 1]; 1 keeps all tokens."""
    min_p: torch.Tensor
    """float32 in [0, 1]; 0 keeps all tokens."""
    key: torch.Tensor
    """int64: the path's key, see `path_key`."""
    position: torch.Tensor
    """int64: index of the drawn token in its path; one uniform per (key, position)."""

    def __post_init__(self) -> None:
        for name, dtype in _PARAM_DTYPES.items():
            _check_field("params", name, getattr(self, name), dtype, self.temperature.shape[0])

    @classmethod
    def build(
        cls,
        *,
        key: Sequence[int] | torch.Tensor,
        position: Sequence[int] | torch.Tensor | int,
        temperature: Sequence[float] | torch.Tensor | float = 1.0,
        top_k: Sequence[int] | torch.Tensor | int = 0,
        top_p: Sequence[float] | torch.Tensor | float = 1.0,
        min_p: Sequence[float] | torch.Tensor | float = 0.0,
        device: torch.device | str = "cpu",
    ) -> SampleParams:
        """From lists or single numbers; a number applies to every row of ``key``."""
        given = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "key": key,
            "position": position,
        }
        rows = len(key)
        tensors = {
            name: torch.as_tensor(given[name], dtype=dtype, device=device).expand(rows).contiguous()
            for name, dtype in _PARAM_DTYPES.items()
        }
        return cls(**tensors)

    @classmethod
    def greedy(cls, rows: int, device: torch.device) -> SampleParams:
        """Of draws at temperature 0, filled on the device."""
        zeros = torch.zeros(rows, dtype=torch.int64, device=device)
        real = torch.zeros(rows, device=device)
        return cls(
            temperature=real,
            top_k=zeros.int(),
            top_p=real + 1,
            min_p=real,
            key=zeros,
            position=zeros,
        )

    @property
    def num_rows(self) -> int:
        """R."""
        return self.temperature.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogitAdjust:
    """Bias and penalties on listed tokens: row r lists entries ``indptr[r]:indptr[r + 1]``.

    A token is listed at most once per row. For each: add bias; if it occurred in prompt or output,
    divide by repetition when positive and multiply otherwise; subtract frequency times count;
    subtract presence if count > 0.
    """

    indptr: torch.Tensor
    """int64 [R + 1]."""
    token_ids: torch.Tensor
    """int32 [entries]."""
    bias: torch.Tensor
    """float32 [entries]; -inf bans the token."""
    count: torch.Tensor
    """int32 [entries]: occurrences in the output so far."""
    in_prompt: torch.Tensor
    """uint8 [entries]: 1 where the token occurs in the prompt."""
    repetition: torch.Tensor
    """float32 [R] > 0; 1 leaves logits alone."""
    presence: torch.Tensor
    """float32 [R]; 0 leaves logits alone."""
    frequency: torch.Tensor
    """float32 [R]; 0 leaves logits alone."""

    def __post_init__(self) -> None:
        rows, entries = self.repetition.shape[0], self.token_ids.shape[0]
        for name, dtype in _ADJUST_DTYPES.items():
            per_row = name in ("repetition", "presence", "frequency")
            size = rows + 1 if name == "indptr" else rows if per_row else entries
            _check_field("adjust", name, getattr(self, name), dtype, size)

    @property
    def num_rows(self) -> int:
        """R."""
        return self.repetition.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampledTokens:
    """Result of `sample_tokens`; every field is [R]. Log-probs are float32, or float64 for
    float64 logits."""

    token: torch.Tensor
    """int64."""
    logprob: torch.Tensor
    """Of the token, under the distribution it was drawn from (after truncation)."""
    logprob_full: torch.Tensor
    """Of the token, over the whole vocabulary at the same temperature."""
    kept_mass: torch.Tensor
    """Share of the whole vocabulary's mass that truncation kept."""
    logprob_raw: torch.Tensor | None = None
    """Of the token under the given logits alone: no adjustment, no truncation, temperature 1; where
    it was asked for."""
