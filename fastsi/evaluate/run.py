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
from fastsi.types import Question, SamplingParams, check_known
from fastsi.vote import EXTRACTORS

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
    extractor: str = "auto"
    """How the answer is found in a path; a name from ``fastsi.vote.EXTRACTORS``."""
    block: int = 128
    """Questions sampled in one call of the engine; progress is told after each."""

    def __post_init__(self) -> None:
        if self.temperature == 0:
            raise ConfigError("temperature=0: the sampled paths would all be the greedy one")
        check_known([self.extractor], EXTRACTORS, "extractor")
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


def encode_prompts(
    llm: LLM, questions: Sequence[Question], template: Template, format: Format
) -> list[list[int]]:
    """Token ids of every question's prompt.

    Tokenised here and not in the engine, because a chat text brings its own special tokens.

    Raises:
        ConfigError: the model came without a tokenizer.
    """
    tokenizer = llm.tokenizer
    if tokenizer is None:
        raise ConfigError("the model came without a tokenizer; give LLM(..., tokenizer=...)")
    special = template.adds_special_tokens
    texts = [template.prompt(question.question, format) for question in questions]
    return [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]


def respond(
    llm: LLM,
    questions: Sequence[Question],
    template: Template,
    format: Format,
    config: EvaluateConfig,
    progress: Callable[[int], None] | None = None,
) -> list[Responses]:
    """Sample the greedy path and ``config.paths`` paths of every question, in order.

    Args:
        llm: the model.
        questions: what to ask.
        template: prompt texts.
        format: the prompt format, one whose response is reasoned.
        config: sampling settings.
        progress: called with the number of questions done since the last call.

    Raises:
        PromptTooLong: a question does not fit the model's context.
    """
    stop = template.stop(format)
    responses: list[Responses] = []
    prompts = encode_prompts(llm, questions, template, format)
    for begin in range(0, len(prompts), config.block):
        block: list[Any] = [{"prompt_token_ids": ids} for ids in prompts[begin:][: config.block]]
        greedy = llm.generate(block, config.greedy(stop), use_tqdm=False)
        sampled = llm.generate(block, config.sampled(stop), use_tqdm=False)
        for first, group in zip(greedy, sampled, strict=True):
            responses.append(
                Responses(
                    greedy=first.outputs[0].text,
                    texts=tuple(path.text for path in group.outputs),
                    logprobs=tuple(path.cumulative_logprob for path in group.outputs),
                )
            )
        if progress is not None:
            progress(len(block))
    return responses


def score(
    questions: Sequence[Question],
    gold: Mapping[str, GoldAnswer],
    responses: Sequence[Responses],
    extractor: str = "auto",
) -> list[ScoredQuestion]:
    """Score responses; entry i of ``responses`` answers ``questions[i]``.

    Raises:
        KeyError: ``gold`` lacks a question; ``match_gold`` refuses that with a message.
    """
    return [
        score_question(
            question.id, gold[question.id], r.greedy, r.texts, r.logprobs, extractor=extractor
        )
        for question, r in zip(questions, responses, strict=True)
    ]
