"""Frames: draws inside the pass, and buffers that move on by one token without the host."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from fastsi.engine import model_runner
from fastsi.engine.attention import host_plan
from fastsi.engine.frames import SPARE_PAGES, Frame
from fastsi.engine.graphs import DecodeGraphs
from fastsi.ops.segment_attention.work import WorkShape, plan_work
from fastsi.types import SamplingParams
from tests.engine.test_pipeline import ENDS, MODEL, PROMPTS, check_pages, engine, results, run

LONG = SamplingParams(n=9, temperature=0.9, max_tokens=40, seed=2, stop_token_ids=ENDS[::4])


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often steps were filled, followed, and drawn in which way."""
    seen: Counter[str] = Counter()
    real, follow, fill = DecodeGraphs._run, Frame.follow, Frame.fill

    def counted_run(self: DecodeGraphs, frame: Frame) -> None:
        seen[frame.key.draws] += 1
        real(self, frame)

    def counted_follow(self: Frame, step: Any) -> Any:
        rows = follow(self, step)
        seen["followed"] += rows is not None
        return rows

    def counted_fill(self: Frame, *args: Any) -> None:
        seen["filled"] += 1
        fill(self, *args)

    monkeypatch.setattr(DecodeGraphs, "_run", counted_run)
    monkeypatch.setattr(Frame, "follow", counted_follow)
    monkeypatch.setattr(Frame, "fill", counted_fill)
    return seen


def _numbers(frame: Frame, rows: Any) -> dict[str, list[Any]]:
    """What the pass reads of the rows of living paths, by row, and what all rows share."""
    plan, work, found = frame._plan, frame._work, frame._rows
    ids, positions, slots, keep = (part[rows].tolist() for part in frame.inputs)
    tiles = int(work.counts[0])
    own = []
    for row in rows.tolist():
        (record,) = (r for r in work.rows[: int(work.counts[1])].tolist() if r[0] == row)
        spans = work.spans[record[1] : record[2]].tolist()
        pages = [plan.page_ids[s[0] : s[0] - (-(s[1] + s[3]) // 16)].tolist() for s in spans]
        own.append(([s[1:] for s in spans], pages, record[4] - record[3]))
    return {
        "ids": ids,
        "positions": positions,
        "slots": slots,
        "keep": [rows.tolist().index(at) for at in keep],
        "row_pos": plan.row_pos[rows].tolist(),
        "own": own,
        "tiles": sorted(t[2:6] for t in work.tiles[:tiles].tolist()) if len(rows) else [],
        "draws": [
            found[n][rows].tolist()
            for n in ("draw_slots", "key", "temperature", "top_k", "top_p", "min_p", "plain")
        ],
        "streams": found["moving"][2][rows].tolist(),
    }


@pytest.mark.parametrize("pipeline", [False, True])
def test_what_followed_is_what_would_be_filled(
    pipeline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, compared = Frame.follow, [0, 0, 0, 0 if pipeline else 1]

    def follow(self: Frame, step: Any) -> Any:
        rows = real(self, step)
        if rows is None:
            return None
        fresh_rows = step.rows(spare_pages=SPARE_PAGES)
        plan = host_plan(fresh_rows.segments)
        work = plan_work(plan, self._work.shape)
        size = {"capacity": step.table.capacity, "device": torch.device("cpu")}
        fresh = Frame(self.key, plan, work, **size)
        settings = llm._engine._sampler.settings(step.table, step.draw_slots, step.draw_rows)
        last = llm._engine._sampler.last
        fresh.fill(step, fresh_rows, plan, work, settings, last)
        found, want = _numbers(self, rows), _numbers(fresh, np.arange(len(rows)))
        assert found == want
        assert found["ids"] == last[step.table.active].tolist()
        compared[3] += bool((fresh_rows.input_ids < 0).all())
        alive = set(rows.tolist())
        for row in set(range(self.key.width)) - alive:
            assert int(self._rows["moving"][1][row]) == -1
            assert int(self._rows["draw_slots"][row]) == step.table.capacity
        compared[0] += 1
        compared[1] += len(rows) < int(self._held.row_of.max()) + 1  # type: ignore[union-attr]
        compared[2] += bool((np.asarray(want["slots"]) % 16 == 0).any())
        return rows

    monkeypatch.setattr(Frame, "follow", follow)
    llm = engine(graphs="eager", pipeline=pipeline, max_batch_rows=40)
    found = results(llm.generate(PROMPTS[:2], LONG, use_tqdm=False))
    assert min(compared) > 0, f"too easy: {compared}"
    assert compared[0] == llm.stats()["model"]["steps_followed"]
    monkeypatch.undo()
    assert found == results(engine().generate(PROMPTS[:2], LONG, use_tqdm=False))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"page_size": 2},
        {"sharing": "none"},
        {"deterministic": True},
        {"kv_cache_tokens": 640},
        {"logprobs_mode": "full_logprobs"},
        {"logprobs_mode": "processed_logprobs"},
    ],
    ids=str,
)
@pytest.mark.parametrize("pipeline", [False, True])
def test_most_steps_follow_and_paths_are_the_same(
    config: dict[str, Any], pipeline: bool, kinds: Counter[str]
) -> None:
    want, _ = run(LONG, PROMPTS[:3], pipeline=False, graphs="off", **config)
    found, stats = run(LONG, PROMPTS[:3], pipeline=pipeline, graphs="eager", **config)
    assert found == want
    assert kinds["followed"] + kinds["filled"] == stats["steps"]
    if "kv_cache_tokens" in config:
        assert stats["preemptions"] > 0
    else:
        assert kinds["followed"] > kinds["filled"]
        if config != {"page_size": 2}:  # there, spare pages are soon used up
            assert kinds["followed"] > 2 * kinds["filled"]
    raw = "logprobs_mode" not in config
    assert (kinds["scored"] > 0, kinds["full"] > 0) == (raw, not raw)


def test_a_longer_span_of_a_path_makes_new_tiles(
    kinds: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own tokens beyond a split go to tiles, so the work list has to be planned anew."""
    real = WorkShape.for_heads

    def short(*args: Any, **more: Any) -> WorkShape:
        return dataclasses.replace(real(*args, **more), own_split_tokens=128)

    monkeypatch.setattr(model_runner.WorkShape, "for_heads", short)
    params = SamplingParams(n=2, temperature=0.9, max_tokens=140, seed=2, ignore_eos=True)
    want = results(engine(graphs="off").generate(PROMPTS[:1], params, use_tqdm=False))
    llm = engine(graphs="eager")
    assert results(llm.generate(PROMPTS[:1], params, use_tqdm=False)) == want
    # The chunk, the first step, one when spare pages are used up, one at 128 tokens.
    assert kinds["filled"] <= 4
    assert kinds["followed"] > 130
    frames = llm._runner._graphs._frames.values()  # type: ignore[union-attr]
    assert max(int(frame._work.counts[0]) for frame in frames) > 0


def test_draws_in_the_pass_and_behind_it(kinds: Counter[str]) -> None:
    """Every setting, alone and beside others, gives the tokens of a draw outside of frames."""

    def params(**more: Any) -> SamplingParams:
        return SamplingParams(**({"n": 5, "max_tokens": 14, "seed": 3} | more))

    plain = [
        params(temperature=0.0),
        params(temperature=1.0),
        params(temperature=0.6, top_k=5),
        params(temperature=1.3, top_p=0.7, seed=None),
        params(temperature=0.8, min_p=0.05, stop_token_ids=ENDS),
        params(temperature=1.0, top_k=3, top_p=0.9),
        params(temperature=0.7, logprobs=2),
    ]
    host = [
        params(frequency_penalty=0.7),
        params(min_tokens=4, stop_token_ids=ENDS),
        params(logit_bias={50: 3.0}),
    ]
    for mixed, ways in (
        (plain[:2], {"full"}),
        (plain, {"scored"}),
        ([*plain[:2], *host], {"behind"}),
    ):
        prompts = [PROMPTS[at % len(PROMPTS)] for at in range(len(mixed))]
        want, _ = run(mixed, prompts, pipeline=False, graphs="off")
        kinds.clear()
        found, _ = run(mixed, prompts, pipeline=True, graphs="eager")
        assert found == want
        assert {way for way in ("full", "scored", "behind") if kinds[way]} >= ways
        if ways != {"behind"}:
            assert kinds["behind"] <= 2, "only steps that draw too many tokens, or none"


def test_likeliest_tokens_of_rows_that_have_moved(kinds: Counter[str]) -> None:
    """Paths keep their rows while others end: a path's place in the step is not its row."""
    params = dataclasses.replace(LONG, logprobs=3)
    want, _ = run(params, PROMPTS[:3], pipeline=False, graphs="off")
    found, _ = run(params, PROMPTS[:3], pipeline=True, graphs="eager")
    assert found == want
    assert kinds["followed"] > 2 * kinds["filled"]


def test_more_draws_than_rows_run_behind(kinds: Counter[str]) -> None:
    """The paths of a prompt all start from one row of logits."""
    params = SamplingParams(n=30, max_tokens=3, ignore_eos=True, seed=1)
    want = results(engine(graphs="off").generate([[5, 6, 7]], params, use_tqdm=False))
    llm = engine(graphs="eager", pipeline=True)
    assert results(llm.generate([[5, 6, 7]], params, use_tqdm=False)) == want
    assert (kinds["behind"], kinds["full"]) == (1, 2)


def test_cancelled_paths_leave_their_rows(kinds: Counter[str]) -> None:
    """A controller that has enough ends paths between two steps: their rows become padding."""

    class Enough:
        wanted = 20

        def __init__(self) -> None:
            self.ended: set[int] = set()

        def finished(self, index: int, text: str) -> int | None:
            self.ended.add(index)
            return 9 if len(self.ended) == 9 and self.ended == set(range(9)) else None

    found = []
    params = dataclasses.replace(LONG, n=20)
    for more in ({"graphs": "off"}, {"graphs": "eager", "pipeline": True}):
        llm = engine(**more)
        given: Any = [Enough() for _ in PROMPTS[:3]]
        outputs = llm.generate(PROMPTS[:3], params, use_tqdm=False, controllers=given)
        check_pages(llm)
        found.append(results(outputs))
    assert found[0] == found[1]
    assert kinds["followed"] > kinds["filled"]


def test_nothing_is_left_to_the_next_call(kinds: Counter[str]) -> None:
    """Slots of the table are given out anew: a frame never takes them for the paths before."""
    llm = engine(MODEL, graphs="eager", pipeline=True)
    params = SamplingParams(n=4, temperature=0.9, max_tokens=9, seed=5, ignore_eos=True)
    for prompts in (PROMPTS[:2], PROMPTS[2:4], PROMPTS[:2]):
        want = results(engine(graphs="off").generate(prompts, params, use_tqdm=False))
        assert results(llm.generate(prompts, params, use_tqdm=False)) == want
    assert kinds["followed"] > 0
