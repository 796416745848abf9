"""Run folders, read back for `fastsi eval --run` and `fastsi report`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsi.data.manifest import MANIFEST
from fastsi.errors import ArtifactError
from fastsi.train.config import ImproveConfig
from fastsi.train.report import RoundReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder of ``improve``."""

    folder: Path
    config: ImproveConfig
    base: str
    """Fingerprint of the model that it started from."""
    versions: Mapping[str, str]
    """Versions it was last worked on with."""
    reports: tuple[RoundReport, ...]
    """Finished rounds."""

    @property
    def checkpoint(self) -> Path:
        """The model of the last finished round.

        Raises:
            ArtifactError: no round is finished.
        """
        if not self.reports:
            raise ArtifactError(f"{self.folder}: no finished round; run `fastsi improve` again")
        return self.folder / f"round-{len(self.reports)}" / "checkpoint"

    def tables(self) -> dict[str, dict[str, Any]]:
        """Settings by table, those of no table under the empty name."""
        values = self.config.to_dict()
        tables = {name: value for name, value in values.items() if isinstance(value, dict)}
        return tables | {"": {name: values[name] for name in values if name not in tables}}


def read_run(folder: str | Path) -> Run:
    """Read what a run folder says about itself.

    Raises:
        ArtifactError: no run folder, or a damaged one.
    """
    path = Path(folder) / MANIFEST
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(stored["config"])
        base = str(settings.pop("model")["fingerprint"])
        for derived in ("questions", "exemplars"):
            settings.pop(derived)
        config = ImproveConfig.from_dict(settings)
        versions = dict(stored["versions"])
    except FileNotFoundError:
        raise ArtifactError(f"{folder}: not a run folder: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not the manifest of a run: {error}") from None
    finished = sum(
        f"round-{r}/metrics.json" in stored["artifacts"] for r in range(1, config.rounds + 1)
    )
    metrics = [Path(folder) / f"round-{r}" / "metrics.json" for r in range(1, finished + 1)]
    return Run(
        folder=Path(folder),
        config=config,
        base=base,
        versions=versions,
        reports=tuple(RoundReport.load(each) for each in metrics),
    )


def locate(folder: Path) -> Path:
    """The run folder itself, or the one inside a demo's folder.

    Raises:
        ArtifactError: neither is there.
    """
    for candidate in (folder, folder / "run"):
        if any((candidate / name).exists() for name in ("round-1", "evaluation")):
            return candidate
    raise ArtifactError(f"{folder}: not a run folder: it has no rounds")
