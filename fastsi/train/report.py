"""The numbers of a finished round, all computed from its artifacts and none from gold answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsi.data.manifest import atomic_write
from fastsi.errors import ArtifactError
from fastsi.train.select import Concentration


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """``metrics.json`` of one round."""

    round: int
    """1-based."""
    folder: str
    """The round's folder, as it is now (a run folder may be moved)."""
    questions: int
    paths: int
    consistency: float
    """Mean over questions of the winner's share of the paths; 0 where none won."""
    parse_rate: float
    """Share of the paths that state an answer."""
    cut_rate: float
    """Share of the paths that ``max_tokens`` cut off."""
    distinct_answers: float
    """Mean number of different answers per question."""
    decided: int
    """Questions whose vote passed the selection."""
    kept_questions: int
    """Of these, with at least one path left after the guards."""
    kept_paths: int
    examples: int
    """Training examples, all formats."""
    skipped_examples: int
    """Of these, too long for the model's context and left out."""
    concentration: list[dict[str, Any]]
    """The most common winner among open and among closed answers, with its wins and share."""
    loss: list[float]
    """Training loss of each step, nats per target token."""
    grad_norm: list[float]
    """Gradient norm of each step, before clipping."""
    padding_share: float
    """Share of padding in what the model computed in training."""
    seconds: dict[str, float]
    """Wall time of the phases sample, vote, select, train."""
    tokens_per_s: dict[str, float]
    """Tokens sampled (sample) and computed (train) per second."""

    @property
    def checkpoint(self) -> str:
        """The folder with the trained model; ``from_pretrained`` and the engine load it."""
        return str(Path(self.folder) / "checkpoint")

    def save(self, path: Path) -> None:
        """Write as JSON, atomically.

        Raises:
            ArtifactError: the file cannot be written.
        """
        with atomic_write(path) as temporary:
            text = json.dumps(dataclasses.asdict(self), indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RoundReport:
        """Read ``metrics.json``.

        Raises:
            ArtifactError: the file is missing or not a report.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**values, "folder": str(path.parent)})
        except (OSError, ValueError, TypeError) as error:
            raise ArtifactError(f"{path}: not a round's metrics: {error}") from error


def sampling_numbers(
    paths: Sequence[Mapping[str, Any]], votes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The fields of a report that paths and votes decide."""
    return {
        "questions": len(votes),
        "paths": len(paths),
        "consistency": sum(vote["share"] for vote in votes) / len(votes),
        "parse_rate": sum(vote["votes"] for vote in votes) / len(paths),
        "cut_rate": sum(path["finish_reason"] == "length" for path in paths) / len(paths),
        "distinct_answers": sum(len(vote["counts"]) for vote in votes) / len(votes),
    }


def concentration_row(item: Concentration) -> dict[str, Any]:
    """A most common winner as JSON values."""
    return {**dataclasses.asdict(item), "share": item.share}
