"""Runs a model over questions and scores it: one greedy path and m sampled paths per question."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastsi.data.templates import Template
from fastsi.errors import ConfigError
from fastsi.evaluate.gold import GoldAnswer
from fastsi.evaluate.score import ScoredQuestion, score_question
from fastsi.types import Question, RequestOutput, SamplingParams, check_known

if TYPE_CHECKING:
    from fastsi.data.templates import Format
    from fastsi.engine import LLM


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """How paths are sampled for an evaluation."""

    paths: int = 32
    """Sampled paths per question, for one-sample and majority accuracy."""
    temperature: float = 0.7
    """Of the sampled paths; the greedy path has 0."""
    top_p: float = 1.0
    """Of the sampled paths."""
    max_tokens: int = 256
    """Longest path in tokens."""
    seed: int = 0
    """Seed of the sampled paths."""
    block: int = 128
    """Questions sampled in one call of the engine; progress is told after each."""

    def __post_init__(self) -> None:
        if self.temperature == 0:
            raise ConfigError("temperature=0: the sampled paths would all be the greedy one")
        if not isinstance(self.block, int) or self.block < 1:
            raise ConfigError(f"block={self.block!r}: must be an integer >= 1")
        self.sampled(())  # SamplingParams checks the rest

    def sampled(self, stop: Sequence[str]) -> SamplingParams:
        """Sampling parameters of the sampled paths."""
        if not isinstance(self.paths, int) or self.paths < 1:
            raise ConfigError(f"paths={self.paths!r}: must be an integer >= 1")
        return SamplingParams(
            n=self.paths,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=self.seed,
            stop=tuple(stop),
        )

    def greedy(self, stop: Sequence[str]) -> SamplingParams:
        """Sampling parameters of the greedy path."""
        return SamplingParams(temperature=0.0, max_tokens=self.max_tokens, stop=tuple(stop))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluateConfig:
        """Build from a mapping such as a TOML table; unknown keys are errors.

        Raises:
            ConfigError: unknown key or bad value.
        """
        check_known(values, (f.name for f in dataclasses.fields(cls)), "evaluation field")
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """What the model wrote for one question."""

    greedy: str
    texts: tuple[str, ...]
    """Sampled paths, in path order."""
    logprobs: tuple[float, ...]
    """Summed log-probability of each sampled path, nats."""


def respond(
    llm: LLM,
    questions: Sequence[Question],
    template: Template,
    format: Format,
    config: EvaluateConfig,
    progress: Callable[[int, int], None] | None = None,
) -> list[Responses]:
    """Sample the greedy path and ``config.paths`` paths of every question, in order.

    Args:
        llm: the model.
        questions: what to ask.
        template: prompt texts.
        format: the prompt format, one whose response is reasoned.
        config: sampling settings.
        progress: called with (questions done, questions in all).

    Raises:
        PromptTooLong: a question does not fit the model's context.
    """
    stop = template.stop(format)
    responses: list[Responses] = []
    for begin in range(0, len(questions), config.block):
        prompts = [template.prompt(q.question, format) for q in questions[begin:][: config.block]]
        greedy = _generate(llm, template, prompts, config.greedy(stop))
        sampled = _generate(llm, template, prompts, config.sampled(stop))
        for first, group in zip(greedy, sampled, strict=True):
            responses.append(
                Responses(
                    greedy=first.outputs[0].text,
                    texts=tuple(path.text for path in group.outputs),
                    logprobs=tuple(path.cumulative_logprob for path in group.outputs),
                )
            )
        if progress is not None:
            progress(len(responses), len(questions))
    return responses


def score(
    questions: Sequence[Question],
    gold: Mapping[str, GoldAnswer],
    responses: Sequence[Responses],
) -> list[ScoredQuestion]:
    """Score responses; entry i of ``responses`` answers ``questions[i]``.

    Raises:
        KeyError: ``gold`` lacks a question; ``match_gold`` refuses that with a message.
    """
    return [
        score_question(question.id, gold[question.id], r.greedy, r.texts, r.logprobs)
        for question, r in zip(questions, responses, strict=True)
    ]


def _generate(
    llm: LLM, template: Template, prompts: list[str], params: SamplingParams
) -> list[RequestOutput]:
    if template.adds_special_tokens:
        return llm.generate(prompts, params, use_tqdm=False)
    # A chat text holds its own special tokens: tokenise it here so that none is added twice.
    tokens = [llm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    return llm.generate([{"prompt_token_ids": ids} for ids in tokens], params, use_tqdm=False)
