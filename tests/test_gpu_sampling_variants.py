"""The ways to draw that `run_all.py` measures beside `sample_tokens`: right, and fit for a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fastsi.ops import SampleParams
from fastsi.ops._triton_variants import SHARED_BYTES
from fastsi.ops.sample_tokens.stream import philox
from tests.ops.support import device_of, running

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

GPU = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"
DEVICE = device_of("triton")


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(GPU))
    import _triton_sampling

    return _triton_sampling


def words(params: SampleParams, third: torch.Tensor, stream: int) -> list[torch.Tensor]:
    """Philox of (key, position, third, stream): [rows, len(third)]."""
    low, high = 0xFFFFFFFF, 32
    key, position = params.key.cpu()[:, None], params.position.cpu()[:, None]
    zero = torch.zeros_like(key + third)
    counter = (
        zero + (position & low),
        zero + (position >> high & low),
        zero + third,
        zero + stream,
    )
    return philox(counter, (zero + (key & low), zero + (key >> high & low)))


def far_from(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """Pearson's statistic over its expectation, for cells of at least five."""
    cells = expected >= 5
    statistic = ((observed - expected)[cells] ** 2 / expected[cells]).sum()
    return float(statistic / max(int(cells.sum()) - 1, 1))


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (9, 0.8)])
def test_rejection_draws_from_the_truncated_distribution(
    top_k: int, top_p: float, variants: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, vocab = 250, 37
    monkeypatch.setattr(variants, "STEP", 16)  # three steps a pass
    generator = torch.Generator().manual_seed(1)
    p = torch.softmax(1.5 * torch.randn(vocab, generator=generator), 0)
    p[7] = p[20]  # a tie
    p /= p.sum()
    fields = {"key": range(rows), "position": 5, "top_k": top_k, "top_p": top_p}
    params = SampleParams.build(**fields, device=DEVICE)
    token, rounds = variants.rejection_sample(p.expand(rows, vocab).contiguous().to(DEVICE), params)
    larger = p[None, :] > p[:, None]
    kept = (larger.sum(1) < (top_k or vocab)) & ((larger * p).sum(1) < (top_p if top_p < 1 else 2))
    assert bool(kept[token.cpu()].all())
    exact = torch.where(kept, p, 0.0).double()
    observed = torch.bincount(token.cpu(), minlength=vocab).double()
    assert far_from(observed, rows * exact / exact.sum()) < 2.0
    truncates = top_k > 0 or top_p < 1
    assert bool((rounds > 1).any()) == truncates
    assert int(rounds.max()) < 20
    u = words(params, torch.zeros(1, dtype=torch.int64), 1)[0][:, 0].float() / 2**32
    first = (p.cumsum(0)[None, :] > u[:, None]).int().argmax(1)
    once = (rounds == 1).cpu()
    assert torch.equal(token.cpu()[once], first[once])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "vocab", "depth"), [(1, 1, 16), (21, 45, 40), (33, 64, 16)])
def test_the_head_draws_what_its_noise_says(
    rows: int, vocab: int, depth: int, dtype: torch.dtype, variants: ModuleType
) -> None:
    """Equal to the largest of logit / T and noise, both made here in float64; edges of tiles."""
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, depth, generator=generator).to(dtype)
    weight = torch.randn(vocab, depth, generator=generator).to(dtype) / 3
    temperature = [0.0 if row % 5 == 4 else 0.8 for row in range(rows)]
    params = SampleParams.build(key=range(rows), position=2**33 + 1, temperature=temperature)
    there = SampleParams.build(
        key=range(rows), position=2**33 + 1, temperature=temperature, device=DEVICE
    )
    with running("triton"):
        found = variants.head_sample(hidden.to(DEVICE), weight.to(DEVICE), there, tile=(16, 16, 16))
    token, logprob = (one.cpu() for one in found)
    t = torch.where(params.temperature == 0, 1.0, params.temperature).double()[:, None]
    z = hidden.double() @ weight.double().t() / t
    four = torch.stack(words(params, torch.arange(-(-vocab // 4)), 2), 2).flatten(1)[:, :vocab]
    noise = -torch.log(-torch.log1p(-(four.double() + 0.5) / 2**32))
    score = z + torch.where(params.temperature[:, None] == 0, 0.0, noise)
    best = score.topk(min(2, vocab), dim=1).values
    clear = best[:, 0] - best[:, -1] > 1e-4 if vocab > 1 else torch.ones(rows, dtype=torch.bool)
    assert clear.sum() >= rows - 1
    assert torch.equal(token[clear], score.argmax(1)[clear])
    exact = (z - z.logsumexp(1, keepdim=True)).gather(1, token[:, None])[:, 0]
    torch.testing.assert_close(logprob.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_head_draws_from_its_softmax(variants: ModuleType) -> None:
    rows, vocab = 2048, 24
    weight = torch.randn(vocab, 16, generator=torch.Generator().manual_seed(3))
    hidden = torch.ones(rows, 16)
    params = SampleParams.build(key=range(rows), position=0, temperature=2.0, device=DEVICE)
    with running("triton"):
        token, _ = variants.head_sample(
            hidden.to(DEVICE), weight.to(DEVICE), params, tile=(256, 16, 16)
        )
    exact = torch.softmax(weight.double().sum(1) / 2.0, 0)
    observed = torch.bincount(token.cpu(), minlength=vocab).double()
    assert far_from(observed, rows * exact) < 2.0


@pytest.mark.parametrize("capability", sorted(SHARED_BYTES))
def test_they_compile_without_spills(capability: int) -> None:
    code = (
        "import dataclasses, json, sys\n"
        f"sys.path.insert(0, {str(GPU)!r})\n"
        "import _triton_sampling as found\n"
        "from fastsi.ops._triton_variants import resources\n"
        f"used = {{v.name: dataclasses.asdict(resources(v, {capability})) for v in found.VARIANTS\n"
        f"        if 'sm_' not in v.name or v.name.endswith('sm_{capability}')}}\n"
        "print(json.dumps(used))\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 3
    for name, used in found.items():
        assert used["spilled_bytes"] == 0, (name, used)
        assert used["shared_bytes"] <= SHARED_BYTES[capability], (name, used)
        assert (used["tensor_core_instructions"] > 0) == name.startswith("head"), (name, used)
