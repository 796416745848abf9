"""Ends of texts looked for beside the draw, where the tokens are: the same as on the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastsi import ops
from fastsi.engine.stops import StopFinder
from fastsi.types import SamplingParams
from tests.engine.test_pipeline import PROMPTS, engine, run
from tests.support.on_gpu import DEVICES

MIXED = [
    SamplingParams(n=8, max_tokens=40, seed=1, stop=("a", "e"), temperature=0.9),
    SamplingParams(n=8, max_tokens=40, seed=2, stop=("th", "1"), min_tokens=3),
    SamplingParams(n=8, max_tokens=40, seed=3, stop_at_answer=True, stop=(". ", "!\n")),
    SamplingParams(n=8, max_tokens=40, seed=4, stop=("o",), include_stop_str_in_output=True),
    SamplingParams(n=8, max_tokens=40, seed=5, ignore_eos=True, skip_special_tokens=False),
    SamplingParams(n=8, max_tokens=1, seed=6, stop=("o",)),
]


@pytest.fixture
def on_the_host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Engines whose device has no kernel of `match_stop`."""
    real = ops.chosen_backend

    def chosen(op: str, *tensors: torch.Tensor, **more: Any) -> str:
        return "reference" if op == "match_stop" else real(op, *tensors, **more)

    def switch(on: bool) -> None:
        monkeypatch.setattr(ops, "chosen_backend", chosen if on else real)

    return switch


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_batch_rows": 7},
        {"kv_cache_tokens": 400},
        {"graphs": "eager"},
        {"graphs": "eager", "max_batch_rows": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("pipeline", [False, True])
def test_ends_are_those_that_the_host_finds(
    config: dict[str, Any], pipeline: bool, on_the_host: Any
) -> None:
    on_the_host(True)
    want, stats = run(MIXED, pipeline=False, **(config | {"graphs": "off"}))
    reasons = {path[4] for path in want}
    assert reasons >= {"a", "e", "1", "o"}, f"too easy: {reasons}"
    if "kv_cache_tokens" in config:
        assert stats["preemptions"] > 0
    on_the_host(False)
    found, _ = run(MIXED, pipeline=pipeline, **config)
    assert found == want


def test_where_the_search_runs(on_the_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the draw where there is a kernel; else when the host has read the tokens."""
    seen: list[tuple[bool, bool]] = []
    real = StopFinder._search

    def search(self: StopFinder, tokens: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        seen.append((self.beside_tokens, landed[-1]))
        return real(self, tokens, slots)

    monkeypatch.setattr(StopFinder, "_search", search)
    landed = [False]
    for host in (False, True):
        on_the_host(host)
        llm = engine(pipeline=True)
        find = llm._engine._stops.find

        def told(*args: Any, find: Any = find) -> Any:
            landed[-1] = True
            try:
                return find(*args)
            finally:
                landed[-1] = False

        monkeypatch.setattr(llm._engine._stops, "find", told)
        seen.clear()
        llm.generate(PROMPTS[:2], MIXED[:2], use_tqdm=False)
        assert len(seen) > 5
        assert {beside for beside, _ in seen} == {not host}
        assert any(landing for _, landing in seen) == host


def test_without_rules_nothing_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "match_stop", None)
    llm = engine(pipeline=True)
    llm.generate(PROMPTS[:2], SamplingParams(n=3, max_tokens=5), use_tqdm=False)
    assert not llm._engine.scheduler.table.added


@pytest.mark.parametrize("device", DEVICES)
def test_stop_strings_on_every_device(device: str) -> None:
    """One step behind and in one step, with graphs and without."""
    from tests.engine.test_on_device import on

    model, found = on(device), []
    for more in ({"pipeline": False, "graphs": "off"}, {"pipeline": True, "graphs": "auto"}):
        llm = engine(model, deterministic=True, max_batch_rows=24, **more)
        outputs = llm.generate(PROMPTS, MIXED, use_tqdm=False)
        found.append(
            [
                (p.token_ids, p.text, p.finish_reason, p.stop_reason)
                for o in outputs
                for p in o.outputs
            ]
        )
    assert found[0] == found[1]
    assert {path[3] for path in found[0]} & {"a", "e", "1", "o"}
