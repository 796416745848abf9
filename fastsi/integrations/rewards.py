"""Reward functions for other trainers: against gold answers, and label-free.

All are plain functions of their arguments: they work in any thread or process, set no signal and no
timer, and, unless ``symbolic``, take time linear in the texts. Two answers are equal where their
canonical keys are (`fastsi.vote.key`), so ``0.5``, ``1/2`` and ``\\frac12`` earn the same.

TRL (``GRPOTrainer(reward_funcs=[accuracy_reward])``, also RLOO) calls a reward with keyword
arguments: ``prompts``, ``completions``, ``completion_ids``, every other column of the data set
repeated per completion, ``trainer_state``, ``log_extra``, ``log_metric``. It expects one float per
completion, or None to leave one out. A completion is a string, or a list of chat messages.

verl (``custom_reward_function.path=pkg://fastsi.integrations.rewards``,
``custom_reward_function.name=compute_score``) calls with one path's ``data_source``,
``solution_str``, ``ground_truth`` and ``extra_info``, and expects a float or a dict with ``score``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeAlias, TypeVar

from fastsi.errors import ConfigError, shorten
from fastsi.vote import answer_key, answer_keys, key_of_answer, majority, merged_keys

Message: TypeAlias = Mapping[str, Any]
Completion: TypeAlias = "str | Sequence[Message]"
"""A path's text, or its chat messages ``{"role", "content"}``."""
Prompt: TypeAlias = Completion
P = ParamSpec("P")
R = TypeVar("R")

_MAX_GOLD_WORDS = 16
"""A gold text without a mark is itself the answer if it is one line of at most so many words."""


def accuracy_reward(
    completions: Sequence[Completion],
    solution: Sequence[str | Sequence[str]],
    *,
    extractor: str = "auto",
    symbolic: bool = False,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """1.0 where a completion's answer is a gold answer, else 0.0; for TRL.

    Args:
        completions: strings, or lists of chat messages, of which the assistant's last one counts.
        solution: per completion its gold: an answer, a worked solution that ends in one
            (``... #### 72``), or several of these, of which any will do.
        extractor: how the answer is found in a completion; one of ``fastsi.vote.EXTRACTORS``.
        symbolic: also take what algebra proves equal to a gold (`fastsi.vote.symbolic`): slower, in
            a process of its own with a time limit.
        log_extra: as TRL gives it; gets the keys of gold and answer.
        kwargs: whatever else the trainer passes.

    Returns:
        One reward per completion; None where no gold answer can be read.

    Raises:
        ConfigError: ``completions`` and ``solution`` differ in length, or a completion is neither.
    """
    if len(completions) != len(solution):
        raise ConfigError(f"solution: {len(solution)} values for {len(completions)} completions")
    golds = [gold_keys(each) for each in solution]
    answers = answer_keys([completion_text(each) for each in completions], extractor=extractor)
    if log_extra is not None:
        log_extra("gold_key", [" | ".join(keys) or None for keys in golds])
        log_extra("answer_key", list(answers))
    return [
        float(_is_gold(answer, keys, symbolic)) if keys else None
        for answer, keys in zip(answers, golds, strict=True)
    ]


def majority_reward(
    completions: Sequence[Completion],
    prompts: Sequence[Prompt],
    *,
    min_share: float = 0.0,
    soft: bool = False,
    extractor: str = "auto",
    symbolic: bool = False,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """1.0 for a completion that agrees with the majority of its prompt's completions, else 0.0.

    Needs no label. Completions of equal prompts in one call are one group, wherever they stand; a
    trainer that spreads a group over processes gives each process a vote of its own. A completion
    without an answer earns 0.0, and in a group without any all do.

    Args:
        completions: as in `accuracy_reward`.
        prompts: one per completion: a string or chat messages.
        min_share: least share of the group's completions, in [0, 1], that the majority needs; in
            a group below it all earn 0.0: nothing is learnt from a vote that did not converge.
        soft: earn the share of the group that gave the same answer, majority or not.
        extractor, symbolic: as in `accuracy_reward`; answers are merged within a group.
        log_extra: as in `accuracy_reward`; gets the key of the answer and of the majority.
        kwargs: whatever else the trainer passes.

    Raises:
        ConfigError: different lengths, or ``min_share`` out of range.
    """
    if len(completions) != len(prompts):
        raise ConfigError(f"prompts: {len(prompts)} values for {len(completions)} completions")
    if not 0.0 <= min_share <= 1.0:
        raise ConfigError(f"min_share={min_share!r}: must be in [0, 1]")
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(_identity(prompt), []).append(index)
    answers = answer_keys([completion_text(each) for each in completions], extractor=extractor)
    rewards: list[float | None] = [0.0] * len(answers)
    winners: list[str | None] = [None] * len(answers)
    for members in groups.values():
        if symbolic:
            merged = merged_keys([answers[index] for index in members])
            for index, key in zip(members, merged, strict=True):
                answers[index] = key
        outcome = majority([answers[index] for index in members])
        for index in members:
            answer, winners[index] = answers[index], outcome.winner
            if answer is None or outcome.share < min_share:
                continue
            share = outcome.counts[answer] / outcome.n
            rewards[index] = share if soft else float(answer == outcome.winner)
    if log_extra is not None:
        log_extra("answer_key", list(answers))
        log_extra("majority_key", list(winners))
    return rewards


def compute_score(
    data_source: str | None,
    solution_str: str,
    ground_truth: str | Sequence[str],
    extra_info: Mapping[str, Any] | None = None,
    *,
    extractor: str = "auto",
    symbolic: bool = False,
    **kwargs: Any,
) -> float:
    """1.0 where the answer of ``solution_str`` is a gold answer, else 0.0; for verl.

    Args:
        data_source: not used: one rule serves every source.
        solution_str: the response.
        ground_truth: as ``solution`` in `accuracy_reward`; one that cannot be read earns 0.0.
        extra_info: not used.
        extractor, symbolic: as in `accuracy_reward`.
        kwargs: whatever else the trainer passes.
    """
    answer = answer_key(solution_str, extractor=extractor)
    return float(_is_gold(answer, gold_keys(ground_truth), symbolic))


def compute_score_record(
    data_source: str | None,
    solution_str: str,
    ground_truth: str | Sequence[str],
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """`compute_score` as verl's dict: ``score``, ``acc`` (bool) and ``pred``, the answer's key.

    ``pred`` is empty where there is no answer; verl logs what stands beside ``score``.
    """
    score = compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)
    pred = answer_key(solution_str, extractor=kwargs.get("extractor", "auto"))
    return {"score": score, "acc": score == 1.0, "pred": pred or ""}


def with_options(
    reward: Callable[P, R], *, name: str | None = None, **options: Any
) -> Callable[P, R]:
    """A reward function with some arguments fixed.

    ``with_options(majority_reward, min_share=0.5, soft=True)``: trainers give no options of their
    own, and log a reward under its ``__name__``, which a ``functools.partial`` lacks.

    Args:
        reward: any function of this module.
        name: its new ``__name__``; None: the old one.
        options: arguments; they win over what the trainer passes.
    """

    @functools.wraps(reward)
    def fixed(*args: P.args, **kwargs: P.kwargs) -> R:
        return reward(*args, **{**kwargs, **options})

    fixed.__name__ = name or fixed.__name__
    return fixed


def gold_keys(gold: str | Sequence[str]) -> tuple[str, ...]:
    """Canonical keys of gold answers, without repetition; empty where none can be read.

    A text with an answer in it (``\\boxed{}``, ``#### ``, ``the answer is``) gives that answer; any
    other is an answer itself if it is one line of at most 16 words.
    """
    several = isinstance(gold, Iterable) and not isinstance(gold, str)
    found: dict[str, None] = {}
    for text in map(str, gold if several else [gold]):  # data sets hold numbers too
        key = answer_key(text)
        line = text.strip()
        if key is None and "\n" not in line and len(line.split()) <= _MAX_GOLD_WORDS:
            key = key_of_answer(line)
        if key is not None:
            found[key] = None
    return tuple(found)


def completion_text(completion: Completion) -> str:
    """Text of a completion: itself, or the content of the assistant's last message.

    Content may be a string, null, or a list of parts, of which those with text count.

    Raises:
        ConfigError: it is neither a string nor a list of messages.
    """
    if isinstance(completion, str):
        return completion
    messages = [each for each in completion if isinstance(each, Mapping)]
    if len(messages) < len(completion):
        raise ConfigError(
            f"completion={shorten(completion)}: must be a string or a list of chat messages"
        )
    own = [message for message in messages if message.get("role", "assistant") == "assistant"]
    content = own[-1].get("content") if own else None
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def _is_gold(answer: str | None, golds: Sequence[str], symbolic: bool) -> bool:
    if answer is None:
        return False
    if answer in golds or not symbolic:
        return answer in golds
    own, *others = merged_keys([answer, *golds])
    return own in others


def _identity(prompt: Prompt) -> str:
    """A string that is equal for equal prompts and differs for different ones."""
    if isinstance(prompt, str):
        return "s" + prompt
    return "m" + json.dumps(prompt, sort_keys=True, ensure_ascii=False, default=repr)
