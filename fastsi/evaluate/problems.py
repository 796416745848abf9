"""A set of problems to evaluate models on: questions, gold answers, prompts, sampling settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsi.data.questions import read_questions
from fastsi.data.templates import PromptConfig, Template, load_exemplars
from fastsi.evaluate.gold import GoldAnswer, match_gold, read_gold
from fastsi.evaluate.run import EvaluateConfig, respond, score
from fastsi.evaluate.store import StoredEvaluation
from fastsi.types import Question

if TYPE_CHECKING:
    from fastsi.engine import LLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Problems:
    """Everything that decides an evaluation except the model."""

    questions: tuple[Question, ...]
    gold: Mapping[str, GoldAnswer]
    """Gold answers of exactly these questions."""
    prompt: PromptConfig
    config: EvaluateConfig

    @classmethod
    def read(
        cls,
        questions: str | Path,
        gold: str | Path,
        *,
        limit: int | None = None,
        prompt: PromptConfig | None = None,
        config: EvaluateConfig | None = None,
    ) -> Problems:
        """Read a questions file and a gold file.

        Args:
            questions: JSON lines ``{"id", "question"}``.
            gold: JSON lines ``{"id", "answer"}``; may hold more than the questions.
            limit: use the first so many questions; None: all.
            prompt: how questions are put; None: the defaults.
            config: how paths are sampled; None: the defaults.

        Raises:
            DataError: a malformed file, or a question without a gold answer.
        """
        chosen = read_questions(questions)[:limit]
        return cls(
            questions=tuple(chosen),
            gold=match_gold(chosen, read_gold(gold), gold),
            prompt=prompt or PromptConfig(),
            config=config or EvaluateConfig(),
        )

    def identity(self) -> dict[str, Any]:
        """What a folder of evaluations belongs to, as JSON values: contents, not file names."""
        shown = [dataclasses.asdict(each) for each in load_exemplars(self.prompt.exemplars)]
        return {
            "questions": _hash([[q.id, q.question] for q in self.questions]),
            "gold": _hash(sorted((name, each.key) for name, each in self.gold.items())),
            "exemplars": _hash(shown),
            "prompt": {
                "style": self.prompt.style,
                "sample_format": self.prompt.sample_format,
            },
            "evaluate": {
                name: value
                for name, value in dataclasses.asdict(self.config).items()
                if name != "block"  # how the work is cut does not change it
            },
        }

    def evaluate(self, llm: LLM, progress: Callable[[int], None] | None = None) -> StoredEvaluation:
        """Ask the model every question and score what it writes.

        Args:
            llm: the model.
            progress: called with the number of questions done since the last call.

        Raises:
            ConfigError: chat prompts and a tokenizer without a chat template.
            PromptTooLong: a question does not fit the model's context.
        """
        start = time.perf_counter()
        template = Template.from_config(self.prompt, llm.tokenizer)
        responses = respond(
            llm, self.questions, template, self.prompt.sample_format, self.config, progress
        )
        rows = score(self.questions, self.gold, responses, self.config.extractor)
        return StoredEvaluation(
            rows=tuple(rows),
            questions=self.questions,
            responses=tuple(responses),
            seconds=time.perf_counter() - start,
        )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
