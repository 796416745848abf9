"""Steps in the fixed buffers of recorded graphs: padded to few widths, with the same results."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from fastsi.engine import frames
from fastsi.engine.graphs import DecodeGraphs, widths
from fastsi.types import SamplingParams
from tests.engine.test_pipeline import PARAMS, PROMPTS, check_pages, engine, results, run
from tests.support.tiny_models import BYTE_VOCAB, make_model


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_batch_rows": 1},
        {"max_batch_rows": 5, "max_step_tokens": 9},
        {"max_batch_rows": 17, "max_step_tokens": 24},
        {"max_batch_rows": 17, "page_size": 1},
        {"sharing": "none", "max_batch_rows": 11},
        {"deterministic": True, "max_batch_rows": 7},
        {"kv_dtype": "bfloat16"},
        {"kv_dtype": "int8"},
        {"kv_cache_tokens": 480},
    ],
    ids=str,
)
@pytest.mark.parametrize("pipeline", [False, True])
def test_padded_steps_give_the_same_paths(config: dict[str, Any], pipeline: bool) -> None:
    want, _ = run(pipeline=False, graphs="off", **config)
    found, stats = run(pipeline=pipeline, graphs="eager", **config)
    assert found == want
    if "kv_cache_tokens" in config:
        assert stats["preemptions"] > 0


def test_frames_are_reused_and_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few frames serve many steps; a step that no longer fits gets a larger one."""
    made: list[Any] = []
    real = frames.Frame.__init__

    def counted(self: Any, key: Any, *args: Any, **more: Any) -> None:
        made.append(key)
        real(self, key, *args, **more)

    monkeypatch.setattr(frames.Frame, "__init__", counted)
    monkeypatch.setattr(frames, "_room", lambda count: count)
    params = SamplingParams(n=30, max_tokens=60, ignore_eos=True, seed=1)
    llm = engine(graphs="eager", page_size=1)
    found = results(llm.generate(PROMPTS[:1], params, use_tqdm=False))
    grown = len(made)
    assert grown > len(set(made)), "nothing grew: the test is too easy"
    monkeypatch.undo()
    monkeypatch.setattr(frames.Frame, "__init__", counted)
    made.clear()
    llm = engine(graphs="eager", page_size=1)
    assert results(llm.generate(PROMPTS[:1], params, use_tqdm=False)) == found
    assert len(made) < grown // 2
    assert results(engine(graphs="off").generate(PROMPTS[:1], params, use_tqdm=False)) == found


def test_a_step_with_too_many_rows_takes_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = DecodeGraphs.forward, []

    def forward(self: DecodeGraphs, step: Any) -> Any:
        logits = real(self, step)
        seen.append((step.num_rows, logits is not None))
        return logits

    monkeypatch.setattr(DecodeGraphs, "forward", forward)
    llm = engine(graphs="eager", max_batch_rows=12)
    llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    assert {replayed for _, replayed in seen} == {True, False}
    assert all(replayed == (rows <= 16) for rows, replayed in seen)


@pytest.mark.parametrize("name", ["mlp.down_proj", "input_layernorm"])
@pytest.mark.parametrize("way", ["in place", "new storage"])
def test_new_weights_make_new_frames(name: str, way: str) -> None:
    """A recorded graph reads memory by its address: none may outlive a weight's storage."""
    model = make_model("llama", 5, vocab_size=BYTE_VOCAB)
    llm = engine(model, graphs="eager")
    before = results(llm.generate(PROMPTS, PARAMS, use_tqdm=False))
    held = llm._runner._graphs
    assert held is not None
    frames = list(held._frames.values())
    assert results(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == before
    assert set(frames) <= set(held._frames.values()), "weights are the same, so frames are"
    weight = model.model.layers[0].get_submodule(name).weight
    if way == "in place":
        weight.data.mul_(1.5)
    else:
        weight.data = weight.data * 1.5
    after = results(llm.generate(PROMPTS, PARAMS, use_tqdm=False))
    assert after != before
    assert llm._runner._graphs is held
    if (name, way) != ("input_layernorm", "in place"):  # read where it is, and it is still there
        assert not set(frames) & set(held._frames.values())
    assert after == results(engine(model, graphs="off").generate(PROMPTS, PARAMS, use_tqdm=False))
    check_pages(llm)


def test_widths_cover_every_step() -> None:
    assert widths(1) == (8,)
    assert widths(100) == (8, 16, 32, 64, 96, 104)
    assert widths(256) == (8, 16, 32, 64, 96, 128, 192, 256)
    assert widths(600) == (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 600)
    for most in range(1, 700, 13):
        assert list(widths(most)) == sorted(set(widths(most)))
        assert most <= widths(most)[-1] < most + 8


class FakeGraph:
    """Stands for a CUDA graph without a GPU: the pass of a frame, run again at every replay."""

    made = 0

    def __init__(self) -> None:
        FakeGraph.made += 1
        self.again: Any = None

    def replay(self) -> None:
        self.again()


def test_a_frame_is_recorded_at_its_second_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the recording itself, which needs a GPU."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())
    real, run_pass = DecodeGraphs._record, DecodeGraphs._pass

    def record(self: DecodeGraphs, frame: Any) -> None:
        """Recording runs nothing: results are places that replays write to."""
        places = tuple(part.clone() for part in frame.result)
        monkeypatch.setattr(DecodeGraphs, "_pass", lambda *_: places)
        real(self, frame)
        monkeypatch.setattr(DecodeGraphs, "_pass", run_pass)

        def again() -> None:
            for place, part in zip(places, run_pass(self, frame), strict=True):
                place.copy_(part)

        frame.graph.again = again

    monkeypatch.setattr(DecodeGraphs, "_record", record)
    llm = engine(graphs="capture", pipeline=True)
    want = results(engine(graphs="off").generate(PROMPTS, PARAMS, use_tqdm=False))
    assert results(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == want
    stats = llm.stats()
    frames = llm._runner._graphs._frames  # type: ignore[union-attr]
    assert 0 < stats["model"]["graphs_captured"] <= len(frames)
    first_uses = sum(frame.uses > 0 for frame in frames.values())
    assert stats["model"]["graphs_replayed"] == sum(f.uses for f in frames.values()) - first_uses
    assert FakeGraph.made == stats["model"]["graphs_captured"]
