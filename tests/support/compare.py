"""Reference generation with transformers, and comparisons whose failures say what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

NEVER = 2**30
"""A token id outside every vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What `greedy_reference` found for one prompt."""

    tokens: list[int]
    """Generated token ids, the end-of-sequence token included."""
    logprobs: list[float]
    """Log-probability of each token, natural log, from one forward pass over the whole text."""
    margins: list[float]
    """Logit of the chosen token minus that of the runner-up: a small one is a near-tie."""


@torch.no_grad()
def greedy_reference(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    ignore_eos: bool = True,
) -> list[Generated]:
    """Greedy continuations by ``model.generate``, one prompt at a time (so no padding)."""
    results = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            # An id that never occurs: `min_new_tokens` would ban the end-of-sequence token, which
            # is not the same as going on after it.
            eos_token_id=NEVER if ignore_eos else model.generation_config.eos_token_id,
        )
        tokens = output[0, len(prompt) :].tolist()
        results.append(_scored(model, list(prompt), tokens))
    return results


@torch.no_grad()
def sequence_logprobs(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of every continuation: float64 [len(tokens), vocab]."""
    logits = model(torch.tensor([prompt + tokens], device=model.device)).logits[0].double()
    return torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)


def _scored(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> Generated:
    logprobs = sequence_logprobs(model, prompt, tokens)
    best = logprobs.topk(2, dim=-1).values
    chosen = logprobs[torch.arange(len(tokens)), torch.tensor(tokens)]
    return Generated(
        tokens=tokens, logprobs=chosen.tolist(), margins=(best[:, 0] - best[:, 1]).tolist()
    )


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Index of the first token at which two paths differ, the shorter length if one is a prefix."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return None if len(left) == len(right) else min(len(left), len(right))


def assert_same_paths(
    actual: Sequence[Sequence[int]], expected: Sequence[Sequence[int]], what: str
) -> None:
    """Token ids equal, path by path; the message names the path and the first difference."""
    assert len(actual) == len(expected), f"{what}: {len(actual)} paths, expected {len(expected)}"
    for path, (left, right) in enumerate(zip(actual, expected, strict=True)):
        at = first_difference(left, right)
        assert at is None, (
            f"{what}: path {path} differs at token {at}: "
            f"got {list(left[at : at + 5])}, expected {list(right[at : at + 5])}"
        )


def max_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference; equal infinities count as 0, NaN as infinity."""
    left, right = actual.double().flatten(), expected.double().flatten()
    difference = (left - right).abs()
    difference = torch.where(left == right, torch.zeros_like(difference), difference)
    worst = difference.nan_to_num(nan=float("inf")).max() if difference.numel() else torch.zeros(())
    return float(worst)


def assert_within_reference_error(
    actual: torch.Tensor,
    same_precision: torch.Tensor,
    exact: torch.Tensor,
    *,
    factor: float = 2.0,
    floor: float = 0.0,
    what: str = "result",
) -> None:
    """The rule for numerical kernels: no worse than plain torch in the same precision.

    Args:
        actual: result of the kernel.
        same_precision: plain torch's result in the kernel's precision.
        exact: the result in float64.
        factor: how many times torch's largest error is allowed (2 forward, 3 gradients).
        floor: absolute error always allowed, for cases in which torch happens to be exact.
        what: name for the message.
    """
    allowed = factor * max_error(same_precision, exact) + floor
    error = max_error(actual, exact)
    assert error <= allowed, f"{what}: largest error {error:.3e}, allowed {allowed:.3e}"
