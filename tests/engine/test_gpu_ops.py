"""The pass as a GPU makes it: op by op, over Triton kernels, with recorded graphs' buffers.

Without a GPU the kernels run in Triton's interpreter on a tiny model: slow, but nothing between the
scheduler and the kernels is left out.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from fastsi import ops
from fastsi.engine import LLM
from fastsi.engine.fused_decoder import FusedDecoder
from fastsi.types import SamplingParams
from tests.ops.support import device_of, running
from tests.support.tiny_models import make_model, sample_prompts

KERNELS = ("segment_attention", "rms_norm", "rope_kv_write", "act_mul", "linear", "sample_tokens")


def outcome(llm: LLM) -> list[tuple[list[int], list[float]]]:
    prompts = sample_prompts(np.random.default_rng(1), 60, 2, shared_tokens=5, max_tokens=9)
    params = SamplingParams(n=2, max_tokens=3, temperature=0.8, ignore_eos=True, seed=2)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return [(path.token_ids, path.token_logprobs) for each in outputs for path in each.outputs]


def test_the_engine_over_triton_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("qwen3", 4)
    expected = outcome(LLM(model, kv_cache_tokens=512, graphs="off"))
    for name in KERNELS:
        monkeypatch.setattr(ops, name, partial(getattr(ops, name), backend="triton"))
    monkeypatch.setattr(ops, "pack_weight", partial(ops.pack_weight, keep=True))
    monkeypatch.setattr(FusedDecoder, "_in_one_call", lambda *_: False)
    model = model.to(device_of("triton"))
    with running("triton"):
        llm = LLM(model, kv_cache_tokens=512, graphs="eager", pipeline=True)
        assert llm.stats()["model"]["forward"] == "fused"
        found = outcome(llm)
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    for (_, left), (_, right) in zip(found, expected, strict=True):
        assert torch.allclose(torch.tensor(left), torch.tensor(right), atol=1e-4)
