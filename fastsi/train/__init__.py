"""Rounds of label-free self-improvement: sample, vote, select, mix, train."""

from fastsi.train.config import (
    ImproveConfig,
    RoundConfig,
    SampleConfig,
    SelectConfig,
    TrainConfig,
)
from fastsi.train.report import RoundReport
from fastsi.train.rounds import run_rounds

__all__ = [
    "ImproveConfig",
    "RoundConfig",
    "RoundReport",
    "SampleConfig",
    "SelectConfig",
    "TrainConfig",
    "run_rounds",
]
