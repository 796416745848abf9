"""Training examples to padded batches.

Examples are drawn in seeded random order, so every optimizer step sees a fair mix. Within a step
they are sorted by length and cut into forward passes of at most ``micro_batch_tokens`` padded
tokens. Sorted batches were chosen over packing several examples into one row: packed examples must
be kept from seeing each other by an attention mask that not every architecture takes, while a
padded row is right for all of them, and within a sorted step little is padding (the trainer reports
how much).

Sequences that begin with the same long prefix (exemplars) go into the same forward passes, where
the prefix is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastsi.train.sampler import encode_prompt

SHORTEST_SHARED = 16
"""Tokens below which computing a prefix apart costs more than it saves."""
BUSY_TOKENS = 1024
"""Tokens with which a forward pass keeps a device busy; larger ones only pad more."""
WASTEFUL = 0.75
"""Once busy, a pass takes no sequence shorter than this share of its longest."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training sequence; the loss is on ``ids[prompt_tokens:]``."""

    ids: tuple[int, ...]
    prompt_tokens: int
    group: str
    """Sequences of one group may begin alike (the prompt format)."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences of one forward pass: ``prefix`` + one row each of ``ids``, right-padded."""

    prefix: torch.Tensor
    """int64 [P]: tokens before every row; P may be 0."""
    ids: torch.Tensor
    """int64 [B, T]."""
    mask: torch.Tensor
    """int64 [B, T]: 1 where ``ids`` is a token, 0 where padding."""
    is_target: torch.Tensor
    """bool [B, T]: tokens whose log-probability is trained."""


def encode(
    tokenizer: Any, prompt: str, target: str, group: str, *, add_special_tokens: bool
) -> Encoded:
    """Token ids of prompt + target + end of sequence.

    The prompt's ids are those that paths are sampled from. Where a tokenizer would merge across the
    boundary, prompt and target are encoded apart, so that they stay so.
    """
    start = encode_prompt(tokenizer, prompt, add_special_tokens)
    whole = encode_prompt(tokenizer, prompt + target, add_special_tokens)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    # Some tokenizers end a text with special tokens of their own (an end of sequence, say), which
    # then stand between prompt and target: the prompt is no prefix and the parts are used.
    if whole[: len(start)] != start or len(whole) == len(start):
        whole = start + encode_prompt(tokenizer, target, False)
    if end and whole[-1:] == end:
        end = []
    return Encoded(ids=tuple(whole + end), prompt_tokens=len(start), group=group)


def draw_batches(
    count: int, batch_size: int, steps: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Indices of each step's examples: passes over all of them, each in a new random order."""
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < batch_size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def micro_batches(
    sequences: Sequence[Encoded], max_tokens: int, *, share_prefix: bool
) -> list[MicroBatch]:
    """Cut sequences into forward passes; every sequence is in exactly one.

    A sequence longer than ``max_tokens`` has a pass of its own.
    """
    apart: list[Encoded] = []
    batches: list[MicroBatch] = []
    groups: dict[str, list[Encoded]] = {}
    for sequence in sequences:
        groups.setdefault(sequence.group, []).append(sequence)
    for group in groups.values():
        shared = common_prefix(group) if share_prefix and len(group) > 1 else 0
        if shared < SHORTEST_SHARED:
            apart += group
        else:
            batches += [pad(cut, shared) for cut in _cut(group, max_tokens, shared)]
    return batches + [pad(cut, 0) for cut in _cut(apart, max_tokens, 0)]


def common_prefix(sequences: Sequence[Encoded]) -> int:
    """Tokens that all prompts share, less what leaves each prompt its last token."""
    first = min(sequence.ids for sequence in sequences)
    last = max(sequence.ids for sequence in sequences)
    limit = min(sequence.prompt_tokens for sequence in sequences) - 1
    for index in range(limit):
        # Between the least and the greatest in lexicographic order all others lie, so what these
        # two share, all share.
        if first[index] != last[index]:
            return index
    return limit


def _cut(sequences: list[Encoded], max_tokens: int, shared: int) -> Iterator[list[Encoded]]:
    """Longest first, so that the passes that need most memory come first."""
    batch: list[Encoded] = []
    for sequence in sorted(sequences, key=lambda s: -len(s.ids)):
        own = len(sequence.ids) - shared
        if batch:
            width = len(batch[0].ids) - shared
            full = shared + width * (len(batch) + 1) > max_tokens
            wasteful = own < width * WASTEFUL and shared + width * len(batch) >= BUSY_TOKENS
            if full or wasteful:
                yield batch
                batch = []
        batch.append(sequence)
    if batch:
        yield batch


def pad(sequences: Sequence[Encoded], shared: int) -> MicroBatch:
    """One forward pass of these sequences, which have their first ``shared`` tokens in common."""
    width = max(len(sequence.ids) for sequence in sequences) - shared
    ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    is_target = torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        own = torch.tensor(sequence.ids[shared:], dtype=torch.int64)
        ids[row, : len(own)] = own
        mask[row, : len(own)] = 1
        is_target[row, sequence.prompt_tokens - shared : len(own)] = True
    prefix = torch.tensor(sequences[0].ids[:shared], dtype=torch.int64)
    return MicroBatch(prefix=prefix, ids=ids, mask=mask, is_target=is_target)
