"""Synthetic arithmetic stories with exact answers, for the bundled base model and the demo.

Every question belongs to exactly one split, decided by a hash of its text. So no evaluation
question can occur in the pretraining text or among the questions for self-improvement, whatever
the seeds and counts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fastsi.data.stories_families import FAMILIES, Draft
from fastsi.errors import ConfigError

Split = Literal["pretrain", "improve", "evaluate"]
Care = Literal["at_once", "skipping", "careful"]

_BUCKETS: dict[Split, range] = {
    "pretrain": range(0, 8),
    "improve": range(8, 9),
    "evaluate": range(9, 10),
}
"""Tenths of the space of questions that each split owns."""
_PATIENCE = 1000
"""Draws without one new question after which the space counts as used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One problem, its exact answer, and its solution written with three degrees of care.

    Every solution ends with "The answer is X." where X is ``answer``.
    """

    id: str
    """Split, seed and index; unique within a call and between calls with other arguments."""
    question: str
    answer: str
    """Gold answer: an integer, a choice such as ``(b)``, or ``yes`` or ``no``."""
    family: str
    """One of ``stories_families.FAMILIES``."""
    at_once: str
    """The answer alone."""
    skipping: str
    """The whole computation in one equation, then the answer."""
    careful: str
    """One equation per step, then the answer."""

    def solution(self, care: Care) -> str:
        """The solution written with the given care."""
        return {"at_once": self.at_once, "skipping": self.skipping, "careful": self.careful}[care]


def split_of(question: str) -> Split:
    """The only split in which a question may occur: a function of its text alone."""
    digest = hashlib.sha256(question.encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 10
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def make_problems(split: Split, count: int, seed: int) -> list[Story]:
    """Draw ``count`` different problems of a split; equal arguments give equal problems.

    Raises:
        ConfigError: unknown split, negative count, or more problems than the families can make.
    """
    if split not in get_args(Split):
        raise ConfigError(f"split={split!r}: must be one of {', '.join(get_args(Split))}")
    if count < 0:
        raise ConfigError(f"count={count!r}: must be an integer >= 0")
    drafts = itertools.islice(_drafts(split, seed), count)
    return [
        _write(f"{split}-{seed}-{index}", family, draft)
        for index, (family, draft) in enumerate(drafts)
    ]


def _drafts(split: Split, seed: int) -> Iterator[tuple[str, Draft]]:
    """Endless new problems of a split, each question once."""
    rng = random.Random(f"fastsi stories {split} {seed}")
    names = list(FAMILIES)
    weights = [weight for _, weight in FAMILIES.values()]
    seen: set[str] = set()
    misses = 0
    while misses < _PATIENCE:
        family = rng.choices(names, weights)[0]
        draft = FAMILIES[family][0](rng)
        if split_of(draft.question) != split or draft.question in seen:
            misses += 1
            continue
        misses = 0
        seen.add(draft.question)
        yield family, draft
    raise ConfigError(f"split {split!r} has no more new problems after {len(seen)}; ask for fewer")


def _write(name: str, family: str, draft: Draft) -> Story:
    ending = f"The answer is {draft.answer}."
    closing = [draft.remark, ending] if draft.remark else [ending]
    equation = f"{draft.expression}={draft.steps[-1].value}."
    return Story(
        id=name,
        question=draft.question,
        answer=draft.answer,
        family=family,
        at_once=ending,
        skipping=" ".join([equation, *closing]),
        careful=" ".join([*(step.text() for step in draft.steps), *closing]),
    )


def write_questions(path: str | Path, stories: Iterable[Story]) -> None:
    """Write ``{"id", "question"}`` as JSON lines: all that self-improvement may see."""
    _write_lines(path, ({"id": story.id, "question": story.question} for story in stories))


def write_gold(path: str | Path, stories: Iterable[Story]) -> None:
    """Write ``{"id", "answer"}`` as JSON lines: read by ``fastsi.evaluate`` alone."""
    _write_lines(path, ({"id": story.id, "answer": story.answer} for story in stories))


def _write_lines(path: str | Path, rows: Iterable[dict[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
