"""Settings of a run: frozen, checked when made, unknown names refused.

``ImproveConfig.from_dict`` reads the tables of a TOML file; ``to_dict`` gives plain JSON values,
which the manifest compares when a run is resumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from fastsi.data.mixing import MixConfig
from fastsi.data.templates import PromptConfig
from fastsi.errors import ConfigError
from fastsi.types import SamplingParams, check_known
from fastsi.vote import EXTRACTORS, WeightConfig, parse_rule

T = TypeVar("T")


def _check(name: str, value: object, good: bool, rule: str) -> None:
    if not good:
        raise ConfigError(f"{name}={value!r}: must be {rule}")


def _count(name: str, value: object, least: int) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= least
    _check(name, value, good, f"an integer >= {least}")


def _number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    good = good and math.isfinite(value) and low <= value <= high
    bounds = f"in [{low:g}, {high:g}]" if high < math.inf else f">= {low:g}"
    _check(name, value, good, f"a number {bounds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """How paths are sampled. Defaults are LMSI's."""

    paths: int = 32
    """Paths per question."""
    temperature: float = 0.7
    """Sampling temperature of the first round."""
    later_temperature: float | None = None
    """Temperature from the second round on; None: the same. Trained models are more certain, and
    LMSI found 1.2 best for them."""
    max_tokens: int = 256
    """Longest path in tokens."""
    top_p: float = 1.0
    """Mass of the most likely tokens to keep."""
    top_k: int = 0
    """Number of most likely tokens to keep; 0 keeps all."""
    stop: tuple[str, ...] | None = None
    """Strings that end a path; None: those that fit the prompt style."""
    stop_at_answer: bool = False
    """End a path at the token that completes its first answer, and cut its text there."""
    stopping: str | None = None
    """When a question needs no more paths: ``exact``, ``beta:0.95``, ``window:5`` (see
    ``fastsi.vote.stopping``); None: never, all ``paths`` are sampled."""
    shard_questions: int = 64
    """Questions per part file: what a kill can lose. Part of a run's identity, because the prefix
    cache is emptied between shards so that a resumed shard computes what it would have."""

    def __post_init__(self) -> None:
        if self.stop is not None:
            stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
            object.__setattr__(self, "stop", stop)
        rule = parse_rule(self.stopping)
        object.__setattr__(self, "stopping", None if rule is None else str(rule))
        _count("shard_questions", self.shard_questions, 1)
        _count("max_tokens", self.max_tokens, 1)
        _count("paths", self.paths, 1)
        for round_index in (1, 2):
            self.params(round_index, stop=(), seed=0)

    def params(self, round_index: int, *, stop: tuple[str, ...], seed: int) -> SamplingParams:
        """The engine's parameters in a round (1-based); ``stop`` unless the config has its own.

        Raises:
            ConfigError: a value that the engine would refuse.
        """
        later = self.later_temperature if round_index > 1 else None
        return SamplingParams(
            n=self.paths,
            temperature=self.temperature if later is None else later,
            max_tokens=self.max_tokens,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=stop if self.stop is None else self.stop,
            stop_at_answer=self.stop_at_answer,
            seed=seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig:
    """Which paths are kept: the winner's, where the vote converged, and not too alike."""

    min_share: float = 0.0
    """Least share of a question's paths that reached the winner."""
    min_lead: int = 2
    """Least votes between winner and runner-up; 0: no such rule."""
    max_paths: int | None = 8
    """Most paths kept per question, lowest index first; None: all."""
    distinct_equations: bool = True
    """Keep one path of those with the same list of equations (or, without any, the same text)."""
    finished_only: bool = True
    """Drop paths cut off by ``max_tokens``: their ending would be taught as an ending."""
    collapse_share: float = 0.3
    """Stop the run when one answer surely wins more than this share of the questions with open
    answers (numbers, text)."""
    collapse_share_closed: float = 0.9
    """The same for answers that repeat by nature (choice letters, yes and no)."""

    def __post_init__(self) -> None:
        _number("min_share", self.min_share, 0.0, 1.0)
        _count("min_lead", self.min_lead, 0)
        if self.max_paths is not None:
            _count("max_paths", self.max_paths, 1)
        _number("collapse_share", self.collapse_share, 0.0, 1.0)
        _number("collapse_share_closed", self.collapse_share_closed, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Fine-tuning on the kept paths."""

    steps: int = 150
    """Optimizer steps."""
    batch_size: int = 32
    """Examples per optimizer step."""
    micro_batch_tokens: int = 4096
    """Most tokens, padding included, in one forward pass; bounds memory, not the result."""
    learning_rate: float = 5e-5
    """Peak learning rate."""
    warmup_steps: int = 10
    """Steps of linear warm-up from zero."""
    min_lr_share: float = 0.0
    """Learning rate at the end of the cosine, as a share of the peak."""
    weight_decay: float = 0.0
    """AdamW's, on matrices alone (biases and norms have none)."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.95
    """AdamW's decay of the second moment."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0: no clipping."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Passed to accelerate."""
    share_prefix: bool = True
    """Run a prefix that all sequences of a forward pass share (exemplars) once. Same gradients,
    less work; off where the architecture does not allow it."""
    save_every: int = 50
    """Optimizer steps between saves of the training state; 0: never. Not part of a run's
    identity."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batch_tokens"):
            _count(name, getattr(self, name), 1)
        for name in ("warmup_steps", "save_every"):
            _count(name, getattr(self, name), 0)
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            _number(name, getattr(self, name), 0.0)
        for name in ("min_lr_share", "beta1", "beta2"):
            _number(name, getattr(self, name), 0.0, 1.0)
        allowed = ("no", "bf16", "fp16")
        good = self.mixed_precision in allowed
        _check("mixed_precision", self.mixed_precision, good, f"one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """One round: sample, vote, select, mix, train."""

    seed: int = 0
    """Seed of sampling, mixing and training; each draws from a stream of its own."""
    extractor: str = "auto"
    """How the answer is found in a path; a name from ``fastsi.vote.EXTRACTORS``."""
    weights: str = "uniform"
    """How much a path's vote weighs; one of ``fastsi.vote.SCHEMES``."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        good = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        _check("seed", self.seed, good and abs(self.seed) < 2**63, "a 64-bit integer")
        check_known([self.extractor], EXTRACTORS, "extractor")
        parse_rule(self.sample.stopping, weights=WeightConfig.parse(self.weights).name)


@dataclass(frozen=True, kw_only=True)
class ImproveConfig(RoundConfig):
    """A run of one or more rounds."""

    rounds: int = 1
    """Rounds in all; a finished run may be resumed with more. Two or three is where gains end."""
    start_from: Literal["base", "last"] = "base"
    """Weights that a round's training starts from: the base model's (errors of earlier rounds are
    not inherited) or the last round's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _count("rounds", self.rounds, 1)
        good = self.start_from in ("base", "last")
        _check("start_from", self.start_from, good, "'base' or 'last'")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImproveConfig:
        """Build from nested mappings such as a TOML file; unknown names are errors.

        Raises:
            ConfigError: unknown name or bad value.
        """
        return _build(cls, values, "")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values that ``from_dict`` takes back."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


_TABLES = {
    "prompt": PromptConfig,
    "sample": SampleConfig,
    "select": SelectConfig,
    "mix": MixConfig,
    "train": TrainConfig,
}


def _build(cls: type[T], values: Mapping[str, Any], table: str) -> T:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{table}={values!r}: must be a table of settings")
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    check_known(values, names, f"field of [{table}]" if table else "field or table")
    built: dict[str, Any] = {}
    for name, value in values.items():
        inner = _TABLES.get(name) if not table else None
        built[name] = value if inner is None else _build(inner, value, name)
    return cls(**built)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
