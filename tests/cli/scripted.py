"""A scripted engine that gets better when its weights change, and the files of a small run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastsi.engine import GroupController
from fastsi.train.checkpoint import fingerprint
from fastsi.types import Question, RequestOutput, SamplingParams
from tests.support.standin import ScriptedSampler, questions
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model


class LearningSampler(ScriptedSampler):
    """Right in 45 % of its paths with the weights it began with, in 80 % with any others."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__(make_model("llama", seed, vocab_size=BYTE_VOCAB), byte_tokenizer())
        self._base = fingerprint(self.model)

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: SamplingParams,
        use_tqdm: bool = True,
        *,
        controllers: Sequence[GroupController | None] | None = None,
    ) -> list[RequestOutput]:
        self.skill = 0.45 if fingerprint(self.model) == self._base else 0.8
        return super().generate(prompts, sampling_params, use_tqdm, controllers=controllers)


SETTINGS: dict[str, Any] = {
    "sample": {"paths": 6, "shard_questions": 8},
    "train": {"steps": 4, "batch_size": 4, "learning_rate": 3e-3},
}
"""A run of a few seconds."""


def held_out(count: int) -> list[Question]:
    """Questions unlike those of `questions`."""
    return [Question(id=f"h{i}", question=f"Add {5 * i + 2} and {i + 40}.") for i in range(count)]


def write_inputs(folder: Path, learn: int = 16, evaluate: int = 40) -> dict[str, Path]:
    """Questions, held-out questions, and the gold answers of those."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.jsonl" for name in ("questions", "held-out", "gold")}
    _write(files["questions"], [{"id": q.id, "question": q.question} for q in questions(learn)])
    chosen = held_out(evaluate)
    _write(files["held-out"], [{"id": q.id, "question": q.question} for q in chosen])
    answers = [{"id": q.id, "answer": str(6 * i + 42)} for i, q in enumerate(chosen)]
    _write(files["gold"], answers)
    return files


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
