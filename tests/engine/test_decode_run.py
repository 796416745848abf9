"""Several steps in one call of the extension: the same paths, bit for bit, as step by step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.engine import LLM, compiled_layers, core, decode_run, fused_decoder
from fastsi.engine.fused_decoder import FusedDecoder
from fastsi.engine.kv_pool import KVPool
from fastsi.engine.model_runner import ModelRunner
from fastsi.engine.rows import RowTable
from fastsi.errors import ConfigError, NumericalError
from fastsi.types import SamplingParams
from tests.engine.test_pipeline import (
    ENDS,
    MODEL,
    PARAMS,
    PROMPTS,
    Whim,
    check_pages,
    engine,
    results,
    run,
)
from tests.support.tiny_models import BYTE_VOCAB, make_model

FEW_ENDS = SamplingParams(n=6, temperature=0.9, max_tokens=50, seed=3, stop_token_ids=ENDS[:2])
MIXED = [
    SamplingParams(n=8, max_tokens=40, seed=1, stop=("a", "e"), temperature=0.9),
    SamplingParams(n=8, max_tokens=40, seed=2, stop=("th", "1"), min_tokens=3),
    SamplingParams(n=8, max_tokens=40, seed=3, stop_at_answer=True, stop=(". ", "!\n")),
    SamplingParams(n=8, max_tokens=40, seed=4, stop=("o",), include_stop_str_in_output=True),
    SamplingParams(n=8, max_tokens=40, seed=5, ignore_eos=True, top_k=7, top_p=0.8, min_p=0.02),
    SamplingParams(n=8, max_tokens=1, seed=6, stop=("o",)),
]


class Runs:
    """The runs that were made: steps asked for, steps made, rows."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    @property
    def steps(self) -> int:
        return sum(made for _, made, _ in self.seen)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    seen, real = Runs(), ModelRunner.decode

    def decode(self: ModelRunner, step: Any, pool: Any, run: decode_run.DecodeRun) -> None:
        real(self, step, pool, run)
        seen.seen.append((run.most, run.steps, run.drawn.token.shape[1]))

    monkeypatch.setattr(ModelRunner, "decode", decode)
    return seen


def compare(runs: Runs, params: Any, steps: int, **config: Any) -> dict[str, Any]:
    """Counters of the engine that makes up to ``steps`` steps per call; results are equal."""
    want, before = run(params, pipeline=False, **config)
    assert not runs.seen
    found, after = run(params, pipeline=False, steps_per_call=steps, **config)
    for path, (left, right) in enumerate(zip(found, want, strict=True)):
        assert left == right, f"path {path}"
    for name in ("paths", "generated_tokens", "dropped_tokens"):
        assert before[name] == after[name], name
    if not before["preemptions"]:  # each of them is made again
        assert before["steps"] == after["steps"]
    assert all(1 <= made <= most <= steps for most, made, _ in runs.seen)
    return after


@pytest.mark.parametrize("steps", [2, 5, 16, 100])
@pytest.mark.parametrize("params", [PARAMS, FEW_ENDS], ids=["many ends", "few ends"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_batch_rows": 1},
        {"max_batch_rows": 17, "max_step_tokens": 24},
        {"max_batch_rows": 17, "page_size": 1},
        {"max_batch_rows": 17, "page_size": 7},
        {"sharing": "none", "max_batch_rows": 11},
        {"sharing": "prefill"},
        {"deterministic": True, "max_batch_rows": 7},
        {"logprobs_mode": "full_logprobs"},
        {"logprobs_mode": "processed_logprobs"},
    ],
    ids=str,
)
def test_paths_are_those_of_one_step_at_a_time(
    config: dict[str, Any], params: SamplingParams, steps: int, runs: Runs
) -> None:
    after = compare(runs, params, steps, **config)
    if config.get("page_size") == 1:
        assert not runs.seen, "a page holds no second token"
        return
    assert runs.steps > len(runs.seen), "no call made two steps"
    assert runs.steps <= after["steps"]
    if params is FEW_ENDS and config.get("max_batch_rows", 64) > 1 and steps > 2:
        assert any(made < most for most, made, _ in runs.seen), "no path ended in a call"


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("quantization", [None, "bf16", "int8"])
@pytest.mark.parametrize("kv_dtype", ["auto", "bfloat16", "int8"])
def test_models_and_types(family: str, quantization: Any, kv_dtype: Any, runs: Runs) -> None:
    """Windows, biases and norms per head; caches that round."""
    model, found = make_model(family, 4, vocab_size=BYTE_VOCAB), []
    for steps in (1, 16):
        options = {"quantization": quantization, "kv_dtype": kv_dtype}
        llm = engine(model, steps_per_call=steps, max_batch_rows=20, **options)
        found.append(results(llm.generate(PROMPTS, FEW_ENDS, use_tqdm=False)))
        assert bool(runs.seen) == (steps > 1)
    assert found[0] == found[1]


@pytest.mark.parametrize("rows", [7, 64])
def test_ends_of_texts(rows: int, runs: Runs) -> None:
    """Stop strings and answers are looked for after every step, also where a hit is none."""
    want, _ = run(MIXED, pipeline=False, max_batch_rows=rows)
    assert {"a", "e", "o"} <= {path[4] for path in want}, "too easy"
    compare(runs, MIXED, 16, max_batch_rows=rows)
    plain = [each for each in MIXED if each.min_tokens == 0]
    config: dict[str, Any] = {"pipeline": False, "max_batch_rows": rows}
    found, _ = run(plain, PROMPTS[:5], **config)
    assert run(plain, PROMPTS[:5], steps_per_call=9, **config)[0] == found
    assert runs.steps > len(runs.seen)


def test_likely_tokens_beside_those_drawn(runs: Runs) -> None:
    """Lists that are long are made step by step; a path's own does not depend on others'."""
    few = [dataclasses.replace(FEW_ENDS, logprobs=count) for count in (None, 0, 3, 64, None, 1)]
    compare(runs, few, 16, max_batch_rows=17)
    assert runs.steps > len(runs.seen)
    runs.seen.clear()
    compare(runs, [dataclasses.replace(FEW_ENDS, logprobs=65)] * len(PROMPTS), 16)
    assert not runs.seen
    small = make_model("llama", 2, vocab_size=50)  # fewer tokens than are asked for
    params, found = SamplingParams(n=4, max_tokens=20, ignore_eos=True, seed=1, logprobs=60), []
    for steps in (1, 16):
        llm = LLM(small, kv_cache_tokens=4096, steps_per_call=steps)
        found.append(results(llm.generate([[3, 4, 5], [6, 7]], params, use_tqdm=False)))
    assert found[0] == found[1]
    assert len(found[0][0][5][3]) == 50
    assert runs.steps > len(runs.seen)


def test_preemption(runs: Runs) -> None:
    need = run(pipeline=False)[1]["peak_pages"] * 16
    after = compare(runs, FEW_ENDS, 16, kv_cache_tokens=need // 4)
    assert after["preemptions"] > 0


def test_pages_for_later_tokens_come_from_those_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is free: no path loses pages for a run, and each row keeps one in hand."""
    real, seen = decode_run.give_ahead, []

    def give_ahead(table: RowTable, pool: KVPool, page_size: int, count: int) -> int:
        free = pool.num_free
        given = real(table, pool, page_size, count)
        active = table.active
        assert (table.num_out[active] - 1 + given <= table.num_pages[active] * page_size).all()
        assert (table.num_out[active] + given <= table.limit[active]).all()
        if pool.num_free < free:
            assert pool.num_free >= len(active)
        seen.append(given)
        return given

    monkeypatch.setattr(core, "give_ahead", give_ahead)
    want, stats = run(FEW_ENDS, pipeline=False)
    for part in (2, 3, 5):
        tokens = stats["peak_pages"] * 16 // part
        assert run(FEW_ENDS, pipeline=False, kv_cache_tokens=tokens, steps_per_call=16)[0] == want
    assert {1, 16} <= set(seen)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_mixture_of_requests(data: st.DataObject) -> None:
    """Lengths, stop tokens, settings and batches as they come."""

    def params(seed: int) -> SamplingParams:
        return SamplingParams(
            n=data.draw(st.integers(1, 5)),
            max_tokens=data.draw(st.integers(1, 40)),
            temperature=data.draw(st.sampled_from([0.0, 0.7, 1.0])),
            stop_token_ids=data.draw(st.lists(st.sampled_from(ENDS), max_size=3)),
            logprobs=data.draw(st.sampled_from([None, None, None, 2])),
            presence_penalty=data.draw(st.sampled_from([0.0, 0.0, 0.0, 0.5])),
            seed=seed,
        )

    wanted = [params(seed) for seed in range(len(PROMPTS))]
    config = {
        "max_batch_rows": data.draw(st.integers(1, 30)),
        "page_size": data.draw(st.sampled_from([2, 5, 16])),
    }
    want, _ = run(wanted, pipeline=False, **config)
    steps = data.draw(st.integers(2, 40))
    assert run(wanted, pipeline=False, steps_per_call=steps, **config)[0] == want


def test_controllers(runs: Runs) -> None:
    """Held paths start, and needless ones are cancelled, between runs."""
    params = SamplingParams(n=16, temperature=0.9, max_tokens=12, seed=4)
    found = []
    for steps in (1, 16):
        llm = engine(steps_per_call=steps, max_batch_rows=13)
        controllers = [Whim(4) for _ in PROMPTS]
        outputs = llm.generate(PROMPTS, params, use_tqdm=False, controllers=controllers)
        check_pages(llm)
        found.append([results([each]) for each in outputs])
    assert found[0] == found[1]
    assert runs.steps > len(runs.seen)


@pytest.mark.parametrize("rows", [1, 64])
def test_the_last_positions_of_the_model(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end with the context, and tables of positions reach as far as they do."""
    monkeypatch.setattr(fused_decoder, "_FIRST_POSITIONS", 8)
    prompts = [[5, 6, 7] * 4, [9] * 40]
    params = SamplingParams(n=3, max_tokens=200, ignore_eos=True, seed=2)
    found = []
    for steps in (1, 16):
        llm = engine(steps_per_call=steps, max_model_len=64, max_batch_rows=rows)
        found.append(results(llm.generate(prompts, params, use_tqdm=False)))
        assert [len(path[0]) for path in found[-1]] == [52] * 3 + [24] * 3
    assert found[0] == found[1]


def test_a_slow_step_is_the_last_of_its_call(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    """So that an interrupt is heard."""
    monkeypatch.setattr(compiled_layers, "SECONDS", 0.0)
    compare(runs, FEW_ENDS, 16)
    assert {made for _, made, _ in runs.seen} == {1}


def test_where_steps_are_made_one_by_one(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    """With the pipeline or frames, a forward of the model's own, or ops called one by one."""
    for config in ({"pipeline": True}, {"graphs": "eager", "pipeline": False}):
        found, _ = run(steps_per_call=16, **config)
        assert found == run(pipeline=False)[0]
    gpt2 = make_model("gpt2", 3, vocab_size=BYTE_VOCAB)
    engine(gpt2, steps_per_call=16).generate(PROMPTS, PARAMS, use_tqdm=False)
    monkeypatch.setattr(FusedDecoder, "_in_one_call", lambda *_: False)
    run(pipeline=False, steps_per_call=16)
    assert not runs.seen


def test_logits_that_are_no_numbers_are_an_error_of_the_model(runs: Runs) -> None:
    """The token whose embedding is none is fed within a run."""
    model = make_model("llama", 5, vocab_size=BYTE_VOCAB)
    llm = engine(model, steps_per_call=16)
    params = SamplingParams(n=3, max_tokens=50, seed=1, ignore_eos=True)
    llm.generate([[7, 8, 9]], params, use_tqdm=False)  # settles how the model is run
    runs.seen.clear()
    with torch.no_grad():
        model.model.embed_tokens.weight[40:90] = float("nan")
    with pytest.raises(NumericalError, match=r"logits\[\d+\] \(row \d+ of the draw\)"):
        llm.generate([[7, 8, 9]], params, use_tqdm=False)
    assert runs.steps >= 1
    check_pages(llm)


def test_an_interrupt_between_runs_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    llm, calls = engine(steps_per_call=4), iter(range(10))
    real = llm._engine.step

    def failing() -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real()

    monkeypatch.setattr(llm._engine, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, FEW_ENDS, use_tqdm=False)
    monkeypatch.undo()
    check_pages(llm)
    expected, _ = run(FEW_ENDS, pipeline=False)
    assert results(llm.generate(PROMPTS, FEW_ENDS, use_tqdm=False)) == expected


def test_time_is_shared_out_between_passes_and_draws() -> None:
    llm = engine(steps_per_call=16)
    llm.generate(PROMPTS, FEW_ENDS, use_tqdm=False)
    seconds = llm.stats()["seconds"]
    assert seconds["forward"] > seconds["sample"] > 0


def test_the_setting_is_checked() -> None:
    for bad in (0, -1, True, 2.5):
        with pytest.raises(ConfigError, match="steps_per_call"):
            engine(MODEL, steps_per_call=bad)


def test_two_threads_give_the_same_bits(runs: Runs) -> None:
    before = torch.get_num_threads()
    want, _ = run(FEW_ENDS, pipeline=False)
    torch.set_num_threads(2)
    try:
        found, _ = run(FEW_ENDS, pipeline=False, steps_per_call=16)
    finally:
        torch.set_num_threads(before)
    assert found == want
    assert np.mean([made for _, made, _ in runs.seen]) > 1.5
