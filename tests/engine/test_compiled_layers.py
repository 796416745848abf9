"""A pass in one call of the extension: the bits of the ops called one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastsi import _ext, ops
from fastsi.api import builtin_model
from fastsi.engine import LLM
from fastsi.engine.attention import StepContext
from fastsi.engine.fused_decoder import FusedDecoder
from fastsi.engine.kv_pool import KVPool
from fastsi.ops._view import view
from fastsi.types import SamplingParams
from tests.ops.support import ISAS, running, torch_threads
from tests.support.tiny_models import make_model, sample_prompts

SAMPLED = SamplingParams(n=3, max_tokens=10, ignore_eos=True, seed=3)
PROMPTS = sample_prompts(np.random.default_rng(5), 60, 4, shared_tokens=9)
Outputs = list[tuple[list[int], float | None]]


def paths(llm: LLM) -> Outputs:
    found = llm.generate(PROMPTS, SAMPLED, use_tqdm=False)
    return [(one.token_ids, one.cumulative_logprob) for r in found for one in r.outputs]


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedDecoder, "_in_one_call", lambda *_: False)


class Calls:
    """Counts calls of an op that goes on working."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.count = 0
        run = getattr(ops, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return run(*args, **kwargs)

        monkeypatch.setattr(ops, name, counted)


def model_of(family: str) -> Any:
    if family == "bundled":
        return builtin_model()
    model = make_model(family, 4)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # new models have none to speak of
            parameter.data.normal_()
    return model


@pytest.mark.parametrize("family", ["bundled", "llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("quantization", [None, "bf16", "int8"])
@pytest.mark.parametrize("kv_dtype", ["auto", "bfloat16", "int8"])
def test_bits_are_those_of_the_ops_one_by_one(
    family: str, quantization: Any, kv_dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefill, decoding and mixtures of both; hidden states show in the log-probs."""
    llm = LLM(model_of(family), kv_cache_tokens=1024, quantization=quantization, kv_dtype=kv_dtype)
    assert llm.stats()["model"]["forward"] == "fused"
    attention = Calls(monkeypatch, "segment_attention")
    together = paths(llm)
    assert attention.count == 0
    one_by_one(monkeypatch)
    llm.reset_prefix_cache()
    assert paths(llm) == together
    assert attention.count >= SAMPLED.max_tokens * len(llm._runner.layers)


def passes(
    llm: LLM, rows: int, keep: Sequence[int] | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and the cache's tensors after one pass over ``rows`` tokens of one sequence.

    Logits are those of the rows ``keep``, by default all.
    """
    runner = llm._runner
    plan = ops.SegmentPlan.from_lists(
        pages=[[2, 0, 1]],
        page_offset=[1],
        kv_len=[rows],
        kv_start=[0],
        rows=[(0, rows)],
        causal=[True],
        row_pos=list(range(rows)),
    )
    pool = KVPool(
        runner.layers, num_pages=3, page_size=64, dtype=runner.kv_dtype, device=torch.device("cpu")
    )
    kept = [*pool.k, *pool.v, *pool.k_scales, *pool.v_scales]
    for cache in kept:
        cache.zero_()
    pages = torch.tensor([2, 0, 1])
    places = torch.arange(rows) + 1
    slots = pages[places // 64] * 64 + places % 64
    context = StepContext.over(pool, slots, plan)
    ids, positions = torch.arange(rows) * 7 % 50, torch.arange(rows)
    with runner.session(), torch.no_grad():
        fused = runner._fused
        assert fused is not None
        wanted = torch.tensor(range(rows) if keep is None else keep, dtype=torch.int64)
        logits = fused.forward(ids, positions, context, wanted).clone()
    return logits, kept


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_logits_keys_and_values_are_equal_on_every_instruction_set(
    isa: str, threads: int, kv_dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(f"cpu-{isa}"), torch_threads(threads):
        llm = LLM(make_model("qwen3", 8), kv_cache_tokens=1024, kv_dtype=kv_dtype)
        sizes = (1, 7, 33, 130)
        kept = (None, [6], [], [3, 129, *range(60, 90)])
        together = [passes(llm, *each) for each in zip(sizes, kept, strict=True)]
        one_by_one(monkeypatch)
        for rows, keep, (logits, caches) in zip(sizes, kept, together, strict=True):
            expected, expected_caches = passes(llm, rows, keep)
            whole, _ = passes(llm, rows)
            assert torch.equal(logits, expected)
            assert torch.equal(logits, whole if keep is None else whole[keep])
            for got, want in zip(caches, expected_caches, strict=True):
                assert torch.equal(got, want)


class Scaled(nn.Embedding):
    """Gives other values than its weight's rows."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_an_embedding_that_scales_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", 6)
    plain, _ = passes(LLM(model, kv_cache_tokens=1024), 33)
    model.get_input_embeddings().__class__ = Scaled
    llm = LLM(model, kv_cache_tokens=1024)
    assert llm.stats()["model"]["forward"] == "fused"
    together, caches = passes(llm, 33)
    assert not torch.equal(together, plain)
    one_by_one(monkeypatch)
    expected, expected_caches = passes(llm, 33)
    assert torch.equal(together, expected)
    for got, want in zip(caches, expected_caches, strict=True):
        assert torch.equal(got, want)


def test_the_reference_backend_runs_op_by_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSI_BACKEND", "reference")
    norms = Calls(monkeypatch, "rms_norm")
    llm = LLM(make_model("llama", 4), kv_cache_tokens=1024)
    passes(llm, 3)
    before = norms.count
    passes(llm, 3)
    assert norms.count - before == 2 * len(llm._runner.layers) + 1


@pytest.mark.parametrize(
    "name",
    ["input_layernorm.weight", "q_norm.weight", "down_proj.weight", "embed_tokens.weight"],
)
@pytest.mark.parametrize("way", ["in place", "new storage"])
def test_new_weights_are_seen_and_old_memory_is_not_read(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("qwen3", 9)
    llm = LLM(model, kv_cache_tokens=1024)
    before = paths(llm)
    for key, parameter in model.named_parameters():
        if key.endswith(name):
            if way == "in place":
                parameter.data.mul_(1.5)
            else:
                parameter.data = parameter.data * 1.5
    after = paths(llm)
    assert after != before
    one_by_one(monkeypatch)
    assert paths(LLM(model, kv_cache_tokens=1024)) == after


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("caches", "k_caches: 2, v_caches: 3, layers: 3"),
        ("scales", "k_scales: 1, v_scales: 0, must be 0"),
        ("slot", r"slots\[0\]: is 999, must be in -1..191"),
        ("scratch", "gated: dimension 0 is 3, must be 4"),
        ("heads", "qkv: has 8 columns, must hold"),
        ("hidden", r"embedding: dimension 1 is \d+, must be \d+"),
        ("id", r"ids: entry 1 is 999, embedding has \d+ rows"),
        ("no id", r"ids: entry 1 is -1, embedding has \d+ rows"),
        ("position", r"positions: entry 2 is 10000, tables.cos has \d+ rows"),
        ("keep", "keep: entry 1 is 4, there are 4 rows"),
        ("kept", "kept: dimension 0 is 1, must be 2"),
        ("logits", r"logits: dimension 0 is 3, must be 2"),
    ],
)
def test_what_does_not_fit_is_refused(fault: str, message: str) -> None:
    """The extension trusts no caller: each function checks what it is given."""
    llm = LLM(make_model("llama", 4), kv_cache_tokens=1024)
    passes(llm, 4)
    fused = llm._runner._fused
    assert fused is not None
    compiled = fused._compiled
    assert compiled is not None
    layers = llm._runner.layers
    assert len(layers) == 3
    shape, first = layers[0], fused._layers[0]
    columns = first.qkv.out_features
    queries = columns - 2 * shape.kv_heads * shape.head_dim
    width = first.before.weight.shape[0]
    caches = [view(kept := torch.zeros(3, shape.kv_heads, 64, shape.head_dim))] * 3
    assert fused._tables is not None
    rotary = fused._tables[0].shape[1]
    hidden = width + 1 if fault == "hidden" else width
    scratch = [
        torch.zeros(4, hidden),
        torch.zeros(4, rotary),
        torch.zeros(4, rotary),
        torch.zeros(4, hidden),
        torch.zeros(4, 8 if fault == "heads" else columns),
        torch.zeros(4, queries),
        torch.zeros(4, queries // shape.head_dim),
        torch.zeros(3 if fault == "scratch" else 4, first.gate_up.out_features),
        torch.zeros(1 if fault == "kept" else 2, hidden),
    ]
    ids = torch.tensor([1, {"id": 999, "no id": -1}.get(fault, 2), 3, 4])
    positions = torch.tensor([0, 1, 10000 if fault == "position" else 2, 3])
    keep = torch.tensor([0, 4 if fault == "keep" else 3])
    logits = torch.zeros(3 if fault == "logits" else 2, fused._head.out_features)
    slots = torch.tensor([999 if fault == "slot" else 0, 1, 2, 3])
    columns_of_plan = [[0, 1], [0], [0], [4], [0], [0], [4], [1], [0], [0, 1, 2, 3]]
    fields = [torch.tensor(values, dtype=torch.int32) for values in columns_of_plan]
    plan = _ext.core().SegmentPlan(*map(view, fields), 64)
    step = _ext.core().DecoderStep(
        view(ids),
        view(positions),
        view(keep),
        *map(view, fused._tables),
        caches[:2] if fault == "caches" else caches,
        caches,
        [view(torch.zeros(3, shape.kv_heads, 64))] if fault == "scales" else [],
        [],
        view(slots),
    )
    with pytest.raises(ValueError, match=message):
        compiled._decoder.forward(step, plan, list(map(view, scratch)), view(logits), 1)
    assert not kept.any(), "something was written all the same"
