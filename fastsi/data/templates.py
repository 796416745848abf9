"""Prompt texts: the four formats of LMSI (arXiv 2210.11610, table 2), plain or as a chat.

| format | prompt | target |
|---|---|---|
| ``cot`` | exemplars with reasoning, question | reasoning and answer |
| ``standard`` | the same exemplars without reasoning, question | answer |
| ``step_by_step`` | question, "Let's think step by step." | reasoning and answer |
| ``direct`` | question | answer |

A plain prompt ends with ``A:`` (or the cue) and no space; the space that follows belongs to the
target. Tokenizers that glue a space to the word after it then cut between prompt and target, so the
prompt's tokens are a prefix of the tokens of prompt + target.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fastsi.data.questions import check_fields, read_records
from fastsi.errors import ConfigError, DataError

Format = Literal["cot", "standard", "step_by_step", "direct"]
FORMATS: tuple[Format, ...] = get_args(Format)
REASONED: frozenset[Format] = frozenset({"cot", "step_by_step"})
"""Formats whose target is a whole path; the others' target is the answer sentence."""

STEP_BY_STEP = "Let's think step by step."
ANSWER_MARK = "The answer is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """A worked example shown before the question."""

    question: str
    rationale: str
    """Reasoning, without the answer sentence."""
    answer: str
    """What follows "The answer is", without the full stop."""

    def response(self, reasoned: bool) -> str:
        """The text after ``A:``, with or without the reasoning."""
        sentence = f"{ANSWER_MARK} {self.answer}."
        return f"{self.rationale} {sentence}" if reasoned else sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConfig:
    """How questions are put to the model."""

    style: Literal["plain", "chat"] = "plain"
    """``plain``: "Q: ... A:" text; ``chat``: the tokenizer's chat template."""
    exemplars: str = "none"
    """``none``, ``builtin``, or a JSON-lines file of {"question", "rationale", "answer"}."""
    sample_format: Format = "cot"
    """Format that paths are sampled in; without exemplars ``cot`` is the bare question."""

    def __post_init__(self) -> None:
        if self.style not in ("plain", "chat"):
            raise ConfigError(f"style={self.style!r}: must be 'plain' or 'chat'")
        if not isinstance(self.exemplars, str) or not self.exemplars:
            raise ConfigError(f"exemplars={self.exemplars!r}: must be none, builtin or a file name")
        if self.sample_format not in REASONED:
            raise ConfigError(
                f"sample_format={self.sample_format!r}: must be one whose target is reasoned: "
                + ", ".join(sorted(REASONED))
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Turns questions into prompts."""

    exemplars: tuple[Exemplar, ...] = ()
    tokenizer: Any = None
    """The tokenizer whose chat template is used; None: plain text."""

    @classmethod
    def from_config(cls, config: PromptConfig, tokenizer: Any) -> Template:
        """Load the exemplars and, for the chat style, check the tokenizer.

        Raises:
            ConfigError: chat style and a tokenizer without a chat template.
            DataError: a malformed exemplars file.
        """
        if config.style == "chat" and not getattr(tokenizer, "chat_template", None):
            raise ConfigError("style='chat': the model's tokenizer has no chat template; use plain")
        return cls(
            exemplars=load_exemplars(config.exemplars),
            tokenizer=tokenizer if config.style == "chat" else None,
        )

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer should add its special tokens (a chat text has its own)."""
        return self.tokenizer is None

    def stop(self, format: Format) -> tuple[str, ...]:
        """Stop strings: where a base model that goes on would start the next question.

        After exemplars a blank line separates questions. Without them it may separate steps, so
        only the next "Q:" ends a path. A chat ends with its own token.
        """
        if self.tokenizer is not None:
            return ()
        return ("\nQ:", "\n\n") if self.exemplars and format == "cot" else ("\nQ:",)

    def prompt(self, question: str, format: Format) -> str:
        """The prompt text of a question in one of the four formats.

        Raises:
            ConfigError: unknown format.
        """
        if format not in FORMATS:
            raise ConfigError(f"format={format!r}: must be one of {', '.join(FORMATS)}")
        shown = self.exemplars if format in ("cot", "standard") else ()
        cue = STEP_BY_STEP if format == "step_by_step" else ""
        reasoned = format in REASONED
        if self.tokenizer is not None:
            return self._chat(question, shown, reasoned, cue)
        blocks = [f"Q: {e.question}\nA: {e.response(reasoned)}\n\n" for e in shown]
        return "".join(blocks) + f"Q: {question}\nA:" + (f" {cue}" if cue else "")

    def target(self, text: str) -> str:
        """The training target that continues a prompt with ``text``."""
        text = text.strip()
        return text if self.tokenizer is not None else " " + text

    def _chat(self, question: str, shown: Sequence[Exemplar], reasoned: bool, cue: str) -> str:
        messages = []
        for exemplar in shown:
            messages.append({"role": "user", "content": exemplar.question})
            messages.append({"role": "assistant", "content": exemplar.response(reasoned)})
        content = f"{question}\n{cue}" if cue else question
        messages.append({"role": "user", "content": content})
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return text


def answer_sentence(text: str, answer: str) -> str:
    """The target of the formats without reasoning: the last "The answer is ..." of a path.

    The path's own words keep the writing of the answer ("(b)", "7 apples") as the model writes it;
    a path that says its answer in another way gets the sentence built from ``answer``.
    """
    start = text.rfind(ANSWER_MARK)
    sentence = text[start:].strip() if start >= 0 else ""
    return sentence if sentence not in ("", ANSWER_MARK) else f"{ANSWER_MARK} {answer}."


def load_exemplars(source: str | Path) -> tuple[Exemplar, ...]:
    """Exemplars by name (``none``, ``builtin``) or from a JSON-lines file.

    Raises:
        DataError: the file is missing, empty or malformed.
    """
    if source == "none":
        return ()
    if source == "builtin":
        resource = importlib.resources.files("fastsi.data") / "exemplars.jsonl"
        with importlib.resources.as_file(resource) as path:
            return _read_exemplars(path)
    return _read_exemplars(Path(source))


def _read_exemplars(path: Path) -> tuple[Exemplar, ...]:
    exemplars = []
    for line, record in read_records(path):
        check_fields(record, ("question", "rationale", "answer"), path=path, line=line)
        exemplars.append(Exemplar(**record))
    if not exemplars:
        raise DataError("no exemplars in the file", path=path)
    return tuple(exemplars)
