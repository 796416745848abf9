"""Evaluation against gold answers: the only package that opens them."""

from fastsi.evaluate.calibration import Calibration, CalibrationBin, calibrate
from fastsi.evaluate.gold import GoldAnswer, match_gold, read_gold
from fastsi.evaluate.intervals import Interval, bootstrap_difference, bootstrap_mean, wilson
from fastsi.evaluate.problems import Problems
from fastsi.evaluate.run import EvaluateConfig, Responses, encode_prompts, respond, score
from fastsi.evaluate.score import (
    METRICS,
    Difference,
    Evaluation,
    ScoredQuestion,
    compare,
    score_question,
    summarise,
)

__all__ = [
    "METRICS",
    "Calibration",
    "CalibrationBin",
    "Difference",
    "EvaluateConfig",
    "Evaluation",
    "GoldAnswer",
    "Interval",
    "Problems",
    "Responses",
    "ScoredQuestion",
    "bootstrap_difference",
    "bootstrap_mean",
    "calibrate",
    "compare",
    "encode_prompts",
    "match_gold",
    "read_gold",
    "respond",
    "score",
    "score_question",
    "summarise",
    "wilson",
]
