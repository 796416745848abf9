"""A path depends on its prompt, seed and index alone: not on sharing, batch, order or memory.

In float64, where rounding does not decide between tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastsi.engine import LLM
from fastsi.errors import CacheFull
from fastsi.types import RequestOutput, SamplingParams
from tests.support.compare import assert_same_paths
from tests.support.tiny_models import make_model, sample_prompts

SEED = 11
MODEL = make_model("llama", 5, dtype=torch.float64)
WINDOWED = make_model("mistral", 6, dtype=torch.float64)
RNG = np.random.default_rng(7)
PROMPTS = [
    *sample_prompts(RNG, MODEL.config.vocab_size, 6, shared_tokens=21),
    *sample_prompts(RNG, MODEL.config.vocab_size, 3, min_tokens=2),
]
PROMPTS.append(PROMPTS[0][:25])  # ends inside the others' shared prefix or just after it
PARAMS = SamplingParams(n=8, temperature=0.9, max_tokens=40, seed=SEED)


def paths(results: list[RequestOutput]) -> list[list[int]]:
    return [path.token_ids for result in results for path in result.outputs]


def run(model: Any = MODEL, prompts: Any = PROMPTS, params: Any = PARAMS, **config: Any) -> Any:
    config = {"kv_cache_tokens": 16384} | config
    llm = LLM(model, **config)
    results = llm.generate(prompts, params, use_tqdm=False)
    llm._engine.tree.check_integrity()
    llm._engine.pool.check(llm._engine.tree.owned_pages())
    return paths(results), llm


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return run()[0]


def test_paths_of_a_prompt_differ(expected: list[list[int]]) -> None:
    assert len({tuple(path) for path in expected}) > 0.8 * len(expected)
    assert {len(path) for path in expected} != {40}, "no path ended early: the test is too easy"


@pytest.mark.parametrize(
    "config",
    [
        {"sharing": "prefill"},
        {"sharing": "none"},
        {"max_batch_rows": 1},
        {"max_batch_rows": 5, "max_step_tokens": 7},
        {"max_batch_rows": 33, "max_step_tokens": 40},
        {"page_size": 1},
        {"page_size": 7},
        {"page_size": 64},
    ],
    ids=str,
)
def test_sharing_batch_limits_and_pages_change_nothing(
    config: dict[str, Any], expected: list[list[int]]
) -> None:
    assert_same_paths(run(**config)[0], expected, str(config))


@pytest.mark.parametrize("sharing", ["prefill", "none"])
def test_sharing_with_a_sliding_window(sharing: str) -> None:
    assert_same_paths(run(WINDOWED, sharing=sharing)[0], run(WINDOWED)[0], sharing)


@pytest.mark.parametrize("seed", range(3))
def test_prompt_order_changes_nothing(seed: int, expected: list[list[int]]) -> None:
    order = np.random.default_rng(seed).permutation(len(PROMPTS))
    found, _ = run(prompts=[PROMPTS[i] for i in order], max_batch_rows=20)
    by_prompt = [found[8 * i : 8 * i + 8] for i in range(len(PROMPTS))]
    for place, prompt in enumerate(order):
        want = expected[8 * prompt : 8 * prompt + 8]
        assert_same_paths(by_prompt[place], want, f"prompt {prompt}")


@pytest.mark.parametrize("sharing", ["tree", "prefill", "none"])
def test_a_pool_ten_times_too_small(sharing: str, expected: list[list[int]]) -> None:
    need = run()[1].stats()["peak_pages"] * 16
    found, llm = run(kv_cache_tokens=need // 10, sharing=sharing)
    stats = llm.stats()
    assert stats["preemptions"] > 0
    assert stats["recomputed_tokens"] > 0
    assert_same_paths(found, expected, "small pool")


def test_a_pool_that_cannot_hold_one_path_is_refused_before_work() -> None:
    llm = LLM(MODEL, kv_cache_tokens=48)
    with pytest.raises(CacheFull, match="needs 7 pages of 16 tokens, the KV cache has 3"):
        llm.generate([list(range(3, 63))], PARAMS, use_tqdm=False)
    assert llm.stats()["steps"] == 0


def test_the_first_n_of_m_paths_are_the_n_paths(expected: list[list[int]]) -> None:
    more = SamplingParams(n=32, temperature=0.9, max_tokens=40, seed=SEED)
    found, _ = run(params=more)
    first = [found[32 * i + j] for i in range(len(PROMPTS)) for j in range(8)]
    assert_same_paths(first, expected, "n=8 of n=32")


def test_copies_of_a_prompt_are_its_next_paths(expected: list[list[int]]) -> None:
    one = SamplingParams(n=1, temperature=0.9, max_tokens=40, seed=SEED)
    copies = [prompt for prompt in PROMPTS for _ in range(8)]
    found, llm = run(prompts=copies, params=one)
    assert_same_paths(found, expected, "8 copies with n=1")
    assert llm.stats()["prefilled_tokens"] < sum(map(len, PROMPTS)) + len(PROMPTS)


def test_a_warm_cache_changes_nothing(expected: list[list[int]]) -> None:
    llm = LLM(MODEL, kv_cache_tokens=16384)
    for _ in range(2):
        results = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
        assert_same_paths(paths(results), expected, "warm cache")
    assert results[0].num_cached_tokens == len(PROMPTS[0])


def test_seeds_and_calls_give_different_paths() -> None:
    llm = LLM(MODEL, kv_cache_tokens=4096, seed=1)
    free = SamplingParams(n=2, max_tokens=20, ignore_eos=True)
    first = paths(llm.generate(PROMPTS[:1], free, use_tqdm=False))
    second = paths(llm.generate(PROMPTS[:1], free, use_tqdm=False))
    assert first != second
    again = LLM(MODEL, kv_cache_tokens=4096, seed=1)
    assert paths(again.generate(PROMPTS[:1], free, use_tqdm=False)) == first


def test_an_error_gives_everything_back() -> None:
    llm = LLM(MODEL, kv_cache_tokens=4096)
    real, calls = llm._engine.step, iter(range(10))

    def failing() -> Any:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return real()

    llm._engine.step = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    llm._engine.step = real  # type: ignore[method-assign]
    llm._engine.pool.check(llm._engine.tree.owned_pages())
    llm._engine.tree.check_integrity()
    assert not llm._engine.tree.locked_nodes()
    llm.generate(PROMPTS[:1], PARAMS, use_tqdm=False)


def test_float32_differs_only_at_near_ties() -> None:
    """In float32 another batch may round differently; then the draw stood at an edge."""
    model = make_model("llama", 5, dtype=torch.float32)
    shared, _ = run(model)
    alone, _ = run(model, sharing="none", max_batch_rows=3)
    # The same uniform under both roundings: the chosen tokens' cumulative edges are within rounding
    # of each other, which greedy near-ties show as a small margin between the two tokens.
    for number, (left, right) in enumerate(zip(shared, alone, strict=True)):
        at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
        if at is None:
            assert len(left) == len(right)
            continue
        prompt = PROMPTS[number // 8] + left[:at]
        with torch.no_grad():
            logits = MODEL(torch.tensor([prompt])).logits[0, -1] / 0.9
        edges = torch.softmax(logits, -1).cumsum(0)
        low, high = sorted((left[at], right[at]))
        gap = float(edges[high - 1] - edges[low])
        assert gap < 1e-4, f"path {number} differs at token {at} by probability {gap}"
