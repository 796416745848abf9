"""Rounds of label-free self-improvement: sample, vote, select, mix, train.

Names are imported on first use, so that the modules without torch (tables, progress) stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsi.train.config import ImproveConfig as ImproveConfig
    from fastsi.train.config import RoundConfig as RoundConfig
    from fastsi.train.config import SampleConfig as SampleConfig
    from fastsi.train.config import SelectConfig as SelectConfig
    from fastsi.train.config import TrainConfig as TrainConfig
    from fastsi.train.report import RoundReport as RoundReport
    from fastsi.train.rounds import run_rounds as run_rounds

_NAMES = {
    "ImproveConfig": "fastsi.train.config",
    "RoundConfig": "fastsi.train.config",
    "RoundReport": "fastsi.train.report",
    "SampleConfig": "fastsi.train.config",
    "SelectConfig": "fastsi.train.config",
    "TrainConfig": "fastsi.train.config",
    "run_rounds": "fastsi.train.rounds",
}

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'fastsi.train' has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
