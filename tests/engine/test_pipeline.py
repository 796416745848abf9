"""Steps launched before the last one is read: the same paths, bit for bit, as step by step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from fastsi.engine import LLM, staging
from fastsi.engine.scheduler import Scheduler
from fastsi.errors import ConfigError, NumericalError
from fastsi.types import RequestOutput, SamplingParams
from tests.support.on_gpu import DEVICES
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model, sample_prompts

MODEL = make_model("llama", 5, vocab_size=BYTE_VOCAB)
PROMPTS = [
    *sample_prompts(np.random.default_rng(7), BYTE_VOCAB, 4, shared_tokens=21),
    *sample_prompts(np.random.default_rng(8), BYTE_VOCAB, 2, min_tokens=2),
]
ENDS = list(range(40, 260, 16))
"""Stop tokens: enough of them that most paths end early."""
PARAMS = SamplingParams(n=6, temperature=0.9, max_tokens=24, seed=11, stop_token_ids=ENDS)
COUNTS = ("requests", "paths", "generated_tokens", "prompt_tokens", "cancelled_paths")


def engine(model: Any = MODEL, **config: Any) -> LLM:
    options = {"tokenizer": byte_tokenizer(), "kv_cache_tokens": 16384} | config
    return LLM(model, **options)


def check_pages(llm: LLM) -> None:
    llm._engine.tree.check_integrity()
    llm._engine.pool.check(llm._engine.tree.owned_pages())
    assert not llm._engine.tree.locked_nodes()
    assert not len(llm._engine.scheduler.table.active)
    assert llm._engine.scheduler.table.num_free == llm.config.max_batch_rows
    assert llm._engine._pipeline.flight is None


def results(outputs: list[RequestOutput]) -> list[Any]:
    """All that a caller sees of the paths."""
    return [
        (
            path.token_ids,
            path.token_logprobs,
            path.text,
            path.finish_reason,
            path.stop_reason,
            path.logprobs,
        )
        for each in outputs
        for path in each.outputs
    ]


def run(
    params: Any = PARAMS, prompts: Any = PROMPTS, *, pipeline: bool, **config: Any
) -> tuple[list[Any], dict[str, Any]]:
    """One step per call, unless ``config`` says otherwise."""
    llm = engine(pipeline=pipeline, **({"steps_per_call": 1} | config))
    found = results(llm.generate(prompts, params, use_tqdm=False))
    check_pages(llm)
    return found, llm.stats()


def compare(params: Any = PARAMS, **config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both engines' counters; their results are equal."""
    want, before = run(params, pipeline=False, **config)
    found, after = run(params, pipeline=True, **config)
    for path, (left, right) in enumerate(zip(found, want, strict=True)):
        assert left == right, f"path {path}"
    for name in COUNTS:
        assert before[name] == after[name], name
    assert before["dropped_tokens"] == 0
    return before, after


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_batch_rows": 1},
        {"max_batch_rows": 5, "max_step_tokens": 9},
        {"max_batch_rows": 17, "max_step_tokens": 24},
        {"max_batch_rows": 17, "page_size": 1},
        {"sharing": "none", "max_batch_rows": 11},
        {"sharing": "prefill"},
        {"deterministic": True, "max_batch_rows": 7},
        {"kv_dtype": "bfloat16"},
        {"kv_dtype": "int8"},
        {"logprobs_mode": "full_logprobs"},
        {"logprobs_mode": "processed_logprobs"},
    ],
    ids=str,
)
def test_paths_are_those_of_one_step_at_a_time(config: dict[str, Any]) -> None:
    before, after = compare(**config)
    assert after["dropped_tokens"] > 0, "no path ended early: the test is too easy"
    assert after["steps"] >= before["steps"]


def test_steps_are_chosen_while_one_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the pipeline runs, in decoding and where chunks start paths among decoding ones."""
    llm = engine(pipeline=True, max_batch_rows=9)
    real, seen = Scheduler.schedule, {"decode": 0, "mixed": 0, "alone": 0}

    def schedule(self: Scheduler) -> Any:
        flying = llm._engine._pipeline.flight is not None
        step = real(self)
        kind = "alone" if not flying else "mixed" if step.chunks else "decode"
        seen[kind] += 1
        assert (step.rows().input_ids < 0).any() == (flying and kind != "alone")
        return step

    monkeypatch.setattr(Scheduler, "schedule", schedule)
    llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    assert seen["decode"] > 5 * seen["alone"]
    assert seen["mixed"] > 0


def test_a_known_length_wastes_no_row() -> None:
    params = SamplingParams(n=6, max_tokens=9, ignore_eos=True, seed=2)
    before, after = compare(params, max_batch_rows=7)
    assert after["dropped_tokens"] == 0
    assert after["steps"] <= before["steps"] + len(PROMPTS) * 6 // 7


@pytest.mark.parametrize("sharing", ["tree", "none"])
def test_preemption(sharing: str) -> None:
    need = run(pipeline=False, sharing=sharing)[1]["peak_pages"] * 16
    before, after = compare(kv_cache_tokens=need // 8, sharing=sharing)
    assert min(before["preemptions"], after["preemptions"]) > 0


def test_what_needs_the_host_at_every_token_takes_its_time() -> None:
    """Settings that read tokens or logits on the host, beside requests that do not."""

    def params(**more: Any) -> SamplingParams:
        return SamplingParams(n=4, temperature=0.9, max_tokens=16, seed=3, **more)

    mixed = [
        params(frequency_penalty=0.7, repetition_penalty=1.3),
        params(),
        params(logprobs=3),
        params(min_tokens=6, stop_token_ids=[40, 41, 42, 43, 44, 45]),
        params(logit_bias={50: 4.0, 51: -2.0}),
        params(top_k=7, top_p=0.8, min_p=0.02),
    ]
    for rows in (1, 5, 64):
        compare(mixed, max_batch_rows=rows)


def test_likeliest_tokens_land_with_their_tokens() -> None:
    """They are found while the host is ahead; those of dropped tokens are dropped."""
    wanted = [dataclasses.replace(PARAMS, logprobs=count) for count in (None, 0, 1, 4, 300, 2)]
    need = run(wanted, pipeline=False)[1]["peak_pages"] * 16
    for config in ({}, {"max_batch_rows": 5}, {"kv_cache_tokens": need // 8}):
        before, after = compare(wanted, **config)
        assert after["dropped_tokens"] > 0, "no path ended early: the test is too easy"
        if "kv_cache_tokens" in config:
            assert min(before["preemptions"], after["preemptions"]) > 0


def test_ends_of_texts() -> None:
    """Stop strings, stop tokens and the end of sequence, seen one step late, cut at one place."""
    mixed = [
        SamplingParams(n=8, max_tokens=40, seed=1, stop=("a", "e"), temperature=0.9),
        SamplingParams(n=8, max_tokens=40, seed=2, stop=("th", "1"), min_tokens=3),
        SamplingParams(n=8, max_tokens=40, seed=3, stop_token_ids=list(range(60, 90))),
        SamplingParams(n=8, max_tokens=40, seed=4, stop=("o",), include_stop_str_in_output=True),
        SamplingParams(n=8, max_tokens=40, seed=5, ignore_eos=True),
        SamplingParams(n=8, max_tokens=1, seed=6),
    ]
    for rows in (7, 64):
        found, _ = run(mixed, pipeline=True, max_batch_rows=rows)
        assert {"a", "th", "o"} & {path[4] for path in found}, "no stop string: too easy"
        compare(mixed, max_batch_rows=rows)


def test_scores_and_prompt_logprobs() -> None:
    """Given continuations are scored while sampled paths of another request decode."""
    continuations = [[list(range(5, 20)), [7]], [[9, 8, 7]]]
    found = []
    for pipeline in (False, True):
        llm = engine(pipeline=pipeline, max_batch_rows=5)
        scores = llm.score(PROMPTS[:2], continuations)
        params = SamplingParams(n=3, max_tokens=5, seed=1, prompt_logprobs=2)
        outputs = llm.generate(PROMPTS[:3], params, use_tqdm=False)
        found.append((scores, results(outputs), [each.prompt_logprobs for each in outputs]))
        check_pages(llm)
    assert found[0] == found[1]


class Whim:
    """Keeps a number of paths that depends on the texts of the first ones that ended."""

    def __init__(self, wave: int) -> None:
        self.wave, self.texts = wave, dict[int, str]()

    @property
    def wanted(self) -> int:
        return next(i for i in range(10_000) if i not in self.texts) + self.wave

    def finished(self, index: int, text: str) -> int | None:
        self.texts[index] = text
        for count in range(1, len(self.texts) + 1):
            if count - 1 not in self.texts:
                return None
            if sum(map(ord, self.texts[count - 1])) % 5 == 0:
                return count
        return None


@pytest.mark.parametrize(
    ("wave", "config"),
    [
        (4, {}),
        (16, {"max_batch_rows": 2}),
        (1, {"max_batch_rows": 13}),
        (16, {"max_batch_rows": 13}),
        (4, {"max_batch_rows": 30, "kv_cache_tokens": 400}),
        (16, {"max_batch_rows": 30, "kv_cache_tokens": 400}),
    ],
    ids=str,
)
def test_controllers_cancel_what_is_in_flight(wave: int, config: dict[str, Any]) -> None:
    params = SamplingParams(n=16, temperature=0.9, max_tokens=12, seed=4)
    found = []
    for pipeline in (False, True):
        llm = engine(pipeline=pipeline, **config)
        controllers = [Whim(wave) for _ in PROMPTS]
        outputs = llm.generate(PROMPTS, params, use_tqdm=False, controllers=controllers)
        check_pages(llm)
        found.append([results([each]) for each in outputs])
        assert all(path.finish_reason != "abort" for each in outputs for path in each.outputs)
    assert found[0] == found[1]
    assert any(len(group) < 16 for group in found[0]), "nothing was cancelled: too easy"


def test_float64_and_a_module_forward() -> None:
    """Models that keep their own forward run ahead too."""
    for model in (
        make_model("llama", 5, vocab_size=BYTE_VOCAB, dtype=torch.float64),
        make_model("gpt2", 3, vocab_size=BYTE_VOCAB, dtype=torch.float64),
    ):
        found = [
            [
                path.token_ids
                for each in engine(model, pipeline=pipeline, max_batch_rows=7).generate(
                    PROMPTS, PARAMS, use_tqdm=False
                )
                for path in each.outputs
            ]
            for pipeline in (False, True)
        ]
        assert found[0] == found[1]


def test_an_error_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = engine(pipeline=True)
    real, calls = llm._engine.step, iter(range(10))

    def failing() -> Any:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return real()

    monkeypatch.setattr(llm._engine, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    monkeypatch.undo()
    check_pages(llm)
    expected, _ = run(pipeline=False)
    assert results(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == expected


def test_logits_that_are_no_numbers_are_an_error_of_the_model() -> None:
    model = make_model("llama", 5, vocab_size=BYTE_VOCAB)
    llm = engine(model, pipeline=True)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = float("nan")
    params = SamplingParams(n=3, max_tokens=50, logit_bias=None, seed=1)
    with pytest.raises(NumericalError, match=r"logits\[\d+\] \(row \d+ of the draw\)"):
        llm.generate([[7, 8, 9]], params, use_tqdm=False)
    check_pages(llm)


@pytest.mark.parametrize("device", DEVICES)
def test_arrays_reach_a_device_in_one_copy(device: str) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "none": np.empty(0, dtype=np.int64),
        "ints": rng.integers(-9, 9, 33),
        "few": rng.integers(0, 9, (2, 3)).astype(np.int32),
        "strided": np.arange(20)[::3],
        "floats": rng.random(5).astype(np.float32),
        "one": np.asarray([2**62]),
    }
    for moved in (staging.in_one_copy, staging.to_device):
        found = moved(arrays, torch.device(device))
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].device.type == device
            assert torch.equal(found[name].cpu(), torch.from_numpy(array.copy())), name
    back = staging.Readback(found["ints"], found["floats"]).wait()
    for got, name in zip(back, ("ints", "floats"), strict=True):
        assert np.array_equal(got, arrays[name])


def test_the_setting_is_checked() -> None:
    with pytest.raises(ConfigError, match="pipeline='yes': must be auto, True or False"):
        engine(pipeline="yes")
