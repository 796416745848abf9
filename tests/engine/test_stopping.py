"""Groups that stop early: the same votes in every batch, waves that save steps, no page lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastsi
from fastsi import api
from fastsi.engine import GroupController
from fastsi.errors import ConfigError
from fastsi.types import SamplingParams, Vote
from fastsi.vote import decide, majority
from tests.support.compare import assert_same_paths
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model

N = 24
PARAMS = SamplingParams(n=N, temperature=0.8, max_tokens=12, seed=4)
MODEL = make_model("llama", 5, vocab_size=BYTE_VOCAB, dtype=torch.float64)
PROMPTS = [f"Shared words of all prompts. Q: {i} + {i * i} = ?\nA:" for i in range(7)]
RULES = ("exact", "beta:0.95", "beta:0.75", "window:3")


class LetterController:
    """Stands for a vote: a path's answer is a function of its text with three values."""

    def __init__(self, rule: str | None, wave: int | None = None) -> None:
        self.inner = fastsi.vote.VoteController(
            fastsi.vote.parse_rule(rule), N, wave=wave or "auto"
        )

    @property
    def wanted(self) -> int:
        return self.inner.wanted

    def finished(self, index: int, text: str) -> int | None:
        return self.inner.finished(index, f"The answer is {letter(text)}.")


def letter(text: str) -> int:
    return max(0, sum(map(ord, text)) % 7 - 4)


def engine(**config: Any) -> fastsi.LLM:
    return fastsi.LLM(MODEL, tokenizer=byte_tokenizer(), **({"kv_cache_tokens": 16384} | config))


def check_pages(llm: fastsi.LLM) -> None:
    """Nothing is held by anyone but the tree, and nothing of the tree is locked."""
    llm._engine.tree.check_integrity()
    llm._engine.pool.check(llm._engine.tree.owned_pages())
    assert not llm._engine.tree.locked_nodes()
    assert not len(llm._engine.scheduler.table.active)


def run(
    rule: str | None, prompts: list[str] = PROMPTS, *, wave: int | None = None, **config: Any
) -> tuple[list[list[list[int]]], fastsi.LLM]:
    llm = engine(**config)
    controllers = [LetterController(rule, wave) for _ in prompts]
    outputs = llm.generate(prompts, PARAMS, use_tqdm=False, controllers=controllers)
    check_pages(llm)
    return [[path.token_ids for path in each.outputs] for each in outputs], llm


@pytest.fixture(scope="module")
def full() -> list[list[list[int]]]:
    outputs = engine().generate(PROMPTS, PARAMS, use_tqdm=False)
    return [[path.token_ids for path in each.outputs] for each in outputs]


@pytest.fixture(scope="module")
def expected(full: list[list[list[int]]]) -> dict[str, list[list[list[int]]]]:
    """What every rule keeps of the full sampling, replayed offline."""
    llm, found = engine(), {}
    texts = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    for rule in RULES:
        found[rule] = []
        for group, paths in zip(texts, full, strict=True):
            stop = decide(rule, [f"num:{letter(path.text)}" for path in group.outputs])
            assert stop is not None
            found[rule].append(paths[: stop.at])
        assert sum(map(len, found[rule])) < 0.9 * N * len(PROMPTS), "the test is too easy"
    return found


def same(found: list[list[list[int]]], want: list[list[list[int]]], what: str) -> None:
    assert [len(group) for group in found] == [len(group) for group in want], what
    for left, right in zip(found, want, strict=True):
        assert_same_paths(left, right, what)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_batch_rows": 1},
        {"max_batch_rows": 5},
        {"max_batch_rows": 33, "max_step_tokens": 50},
        {"max_batch_rows": 33, "wave": 1},
        {"max_batch_rows": 33, "wave": 7},
        {"max_batch_rows": 16, "sharing": "prefill"},
        {"max_batch_rows": 40, "kv_cache_tokens": 400},
    ],
    ids=str,
)
def test_batches_and_waves_change_nothing(
    rule: str, config: dict[str, Any], expected: dict[str, list[list[list[int]]]]
) -> None:
    same(run(rule, **config)[0], expected[rule], f"{rule} {config}")


@pytest.mark.parametrize("rule", ["exact", "beta:0.95"])
def test_order_of_prompts_and_a_warm_cache_change_nothing(
    rule: str, expected: dict[str, list[list[list[int]]]]
) -> None:
    order = np.random.default_rng(1).permutation(len(PROMPTS))
    found, llm = run(rule, [PROMPTS[i] for i in order], max_batch_rows=11)
    same(found, [expected[rule][i] for i in order], f"{rule} in another order")
    again = llm.generate(
        PROMPTS, PARAMS, use_tqdm=False, controllers=[LetterController(rule) for _ in PROMPTS]
    )
    warm = [[path.token_ids for path in each.outputs] for each in again]
    same(warm, expected[rule], f"{rule} with a warm cache")


def test_no_rule_keeps_every_path(full: list[list[list[int]]]) -> None:
    same(run(None, max_batch_rows=33)[0], full, "controllers without a rule")


def test_copies_of_a_prompt_are_controlled_apart(full: list[list[list[int]]]) -> None:
    """Two controlled copies and a free one: numbering goes on, each stops by its own answers."""
    llm = engine(max_batch_rows=10)
    controllers: list[GroupController | None] = [
        LetterController("exact"),
        None,
        LetterController("window:3"),
    ]
    outputs = llm.generate([PROMPTS[0]] * 3, PARAMS, use_tqdm=False, controllers=controllers)
    check_pages(llm)
    numbered = engine().generate([PROMPTS[0]] * 3, PARAMS, use_tqdm=False)
    for rule, got, want in zip(("exact", None, "window:3"), outputs, numbered, strict=True):
        stop = decide(rule, [f"num:{letter(path.text)}" for path in want.outputs])
        assert stop is not None
        kept = [path.token_ids for path in want.outputs[: stop.at]]
        assert_same_paths([path.token_ids for path in got.outputs], kept, str(rule))


def test_waves_save_steps_and_tokens(full: list[list[list[int]]]) -> None:
    rule = "beta:0.75"
    kept, narrow = run(rule, max_batch_rows=16)
    _, everything = run(None, max_batch_rows=16)
    _, eager = run(rule, max_batch_rows=16, wave=N)
    stats, without, at_once = narrow.stats(), everything.stats(), eager.stats()
    counted = sum(len(tokens) for group in kept for tokens in group)
    assert stats["generated_tokens"] - stats["cancelled_tokens"] >= counted
    assert stats["generated_tokens"] < at_once["generated_tokens"] < without["generated_tokens"]
    assert stats["steps"] < without["steps"]
    assert stats["cancelled_paths"] > 0
    assert without["cancelled_paths"] == without["cancelled_tokens"] == 0


def test_cancelling_at_every_step_leaks_no_page() -> None:
    """Controllers that decide at random moments, in pools so small that paths are preempted."""
    rng = np.random.default_rng(20261123)
    print("seed 20261123")

    class Whim:
        """Keeps 1 to N paths, decided when that many of the first have ended."""

        def __init__(self) -> None:
            self.count = int(rng.integers(1, N + 1))
            self.wave = int(rng.integers(1, N + 1))
            self.ended: set[int] = set()

        @property
        def wanted(self) -> int:
            first = next(i for i in range(N + 1) if i not in self.ended)
            return min(N, first + self.wave)

        def finished(self, index: int, text: str) -> int | None:
            self.ended.add(index)
            return self.count if self.ended.issuperset(range(self.count)) else None

    preempted = 0
    for tokens, rows in ((320, 30), (400, 64), (1600, 13), (16384, 200)):
        llm = engine(kv_cache_tokens=tokens, max_batch_rows=rows)
        for _ in range(3):
            controllers = [Whim() for _ in PROMPTS]
            outputs = llm.generate(PROMPTS, PARAMS, use_tqdm=False, controllers=controllers)
            check_pages(llm)
            assert [len(each.outputs) for each in outputs] == [each.count for each in controllers]
            assert all(path.finish_reason != "abort" for each in outputs for path in each.outputs)
        preempted += llm.stats()["preemptions"]
    assert preempted > 0


def test_a_controller_that_fails_gives_everything_back() -> None:
    class Failing(LetterController):
        def finished(self, index: int, text: str) -> int | None:
            if index == 3:
                raise KeyboardInterrupt
            return super().finished(index, text)

    llm = engine()
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, PARAMS, False, controllers=[Failing("exact") for _ in PROMPTS])
    check_pages(llm)


def test_one_controller_per_prompt() -> None:
    with pytest.raises(ConfigError, match="1 controllers for 7 prompts"):
        engine().generate(PROMPTS, PARAMS, controllers=[None])


@pytest.fixture(scope="module")
def bundled() -> fastsi.LLM:
    return api.load_model("builtin")


def story_prompts(count: int) -> list[str]:
    from fastsi.data.stories import make_problems

    return [f"Q: {story.question}\nA:" for story in make_problems("evaluate", count, seed=5)]


def test_votes_of_the_bundled_model(bundled: fastsi.LLM) -> None:
    """`LLM.vote` under each rule is the replay of the rule on the full vote's keys."""
    prompts = story_prompts(12)
    params = SamplingParams(n=16, temperature=0.7, max_tokens=120, stop=("\nQ:",), seed=9)
    everything: list[Vote] = bundled.vote(prompts, params)
    assert all(vote.n == 16 and vote.stop_reason == "full" for vote in everything)
    for rule in ("exact", "beta:0.95", "window:4"):
        saved = 0
        for vote, whole in zip(
            bundled.vote(prompts, params, stopping=rule), everything, strict=True
        ):
            stop = decide(rule, whole.keys)
            assert stop is not None
            assert (vote.n, vote.stop_reason) == (stop.at, stop.reason)
            assert vote.keys == whole.keys[: stop.at]
            assert vote.counts == majority(whole.keys[: stop.at]).counts
            saved += whole.n - vote.n
            if rule == "exact":
                assert vote.winner == whole.winner
        assert saved > 0
    check_pages(bundled)
