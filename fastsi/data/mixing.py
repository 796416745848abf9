"""Kept paths to training examples: which formats each path is taught in.

LMSI teaches every kept path in all four formats. ``MixConfig.shares`` thins a format: a path enters
it with that probability, drawn from (seed, question, path, format), so an example's presence does
not depend on the other questions or on their order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastsi.data.templates import FORMATS, REASONED, Format, Template, answer_sentence
from fastsi.errors import ConfigError
from fastsi.types import Question, check_known


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """Which formats are taught, and how often."""

    formats: tuple[Format, ...] | None = None
    """Formats to teach. None: all four with exemplars; without, those that do not contradict the
    sampling prompt (see ``choose_formats``)."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of the kept paths that enter a format, in [0, 1]; 1 for formats not named."""
    unique: bool = True
    """Keep one of equal (prompt, target) pairs; a question's bare answers are often equal."""

    def __post_init__(self) -> None:
        if self.formats is not None:
            object.__setattr__(self, "formats", tuple(self.formats))
            check_known(self.formats or (), FORMATS, "format")
            if not self.formats or len(set(self.formats)) != len(self.formats):
                raise ConfigError(f"formats={self.formats!r}: name each format once, at least one")
        check_known(self.shares, FORMATS, "format in shares")
        for name, share in self.shares.items():
            good = isinstance(share, int | float) and not isinstance(share, bool)
            if not (good and math.isfinite(share) and 0.0 <= share <= 1.0):
                raise ConfigError(f"shares.{name}={share!r}: must be a number in [0, 1]")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MixConfig:
        """Build from a mapping such as a TOML table; unknown keys are errors.

        Raises:
            ConfigError: unknown key or bad value.
        """
        check_known(values, (f.name for f in dataclasses.fields(cls)), "mix field")
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPath:
    """A path that the vote kept."""

    question: Question
    path: int
    """Path index within its question."""
    text: str
    """What the model wrote after the prompt."""
    answer: str
    """The winning answer as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of ``train.parquet``: the loss is on ``target`` alone."""

    question_id: str
    path: int
    format: Format
    prompt: str
    target: str


def choose_formats(config: MixConfig, template: Template, sample_format: Format) -> list[Format]:
    """The formats to teach, in the order of the paper's table.

    Without exemplars ``cot`` and ``direct`` are the same prompt, and teaching a rationale and a
    bare answer for one prompt would teach the model to skip its reasoning. The default then leaves
    out the one that paths are not sampled in.

    Raises:
        ConfigError: the formats asked for contain such a contradiction.
    """
    if config.formats is None:
        if template.exemplars:
            return list(FORMATS)
        return ["cot", "step_by_step"] if sample_format == "cot" else ["step_by_step", "direct"]
    chosen = [name for name in FORMATS if name in config.formats]
    by_prompt: dict[str, Format] = {}
    for name in chosen:
        prompt = template.prompt("?", name)
        other = by_prompt.setdefault(prompt, name)
        if (other in REASONED) != (name in REASONED):
            raise ConfigError(
                f"formats={config.formats!r}: without exemplars {other!r} and {name!r} are the "
                "same prompt with and without reasoning; drop one or give exemplars"
            )
    return chosen


def mix(
    kept: Sequence[KeptPath],
    template: Template,
    formats: Sequence[Format],
    config: MixConfig,
    seed: int,
) -> list[Example]:
    """Write kept paths in the chosen formats, path by path.

    Args:
        kept: the paths, in the order the examples should have.
        template: prompt texts.
        formats: what ``choose_formats`` gave.
        config: shares and uniqueness.
        seed: seed of the draws for shares below 1.

    Returns:
        Examples in the order of ``kept`` and, for one path, of ``formats``.
    """
    examples: list[Example] = []
    seen: set[tuple[str, str]] = set()
    for path in kept:
        for name in formats:
            share = config.shares.get(name, 1.0)
            if share < 1.0 and _uniform(seed, path.question.id, path.path, name) >= share:
                continue
            text = path.text if name in REASONED else answer_sentence(path.text, path.answer)
            example = Example(
                question_id=path.question.id,
                path=path.path,
                format=name,
                prompt=template.prompt(path.question.question, name),
                target=template.target(text),
            )
            pair = (example.prompt, example.target)
            if config.unique and pair in seen:
                continue
            seen.add(pair)
            examples.append(example)
    return examples


def _uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but ``parts``."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
