"""What training needs from the engine, as a protocol, and the token ids both sides agree on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from fastsi.engine import GroupController
from fastsi.errors import PromptTooLong
from fastsi.types import Question, RequestOutput, SamplingParams


class Sampler(Protocol):
    """The part of ``fastsi.engine.LLM`` that rounds use."""

    @property
    def model(self) -> nn.Module:
        """The live ``PreTrainedModel``: trained here, sampled from there."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: SamplingParams,
        use_tqdm: bool = True,
        *,
        controllers: Sequence[GroupController | None] | None = None,
    ) -> list[RequestOutput]:
        """Paths of each prompt, in order; those that count where its controller decided."""

    def reset_prefix_cache(self) -> Any:
        """Forget cached keys and values (of other weights, or of another shard)."""


def stream(*parts: object) -> int:
    """A seed in [0, 2**62) that depends on nothing but ``parts``."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def encode_prompt(tokenizer: Any, prompt: str, add_special_tokens: bool) -> list[int]:
    """Token ids of a prompt: the engine samples from these and the trainer trains on these."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
    return ids


def context_length(model: nn.Module) -> int | None:
    """Longest sequence of the model in tokens; None if its config does not say."""
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if limit else None


def check_lengths(
    questions: Sequence[Question], prompts: Sequence[list[int]], limit: int | None
) -> None:
    """Refuse a prompt that leaves no room for an answer, before any sampling.

    Raises:
        PromptTooLong: names the question, its tokens, and the limit.
    """
    for question, ids in zip(questions, prompts, strict=True):
        if limit is not None and len(ids) >= limit:
            raise PromptTooLong(
                f"question {question.id!r}: its prompt has {len(ids)} tokens and the model's "
                f"context holds {limit}; shorten the question or use fewer exemplars"
            )
