"""rms_norm, rope_kv_write, act_mul: every backend against float64, exact copies, fixed bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.errors import ConfigError
from fastsi.ops import act_mul, rms_norm, rope_kv_write
from tests.ops.support import (
    assert_as_good_as_torch,
    device_of,
    runners,
    running,
    torch_threads,
)
from tests.support.devices import call_on

RUNNERS = runners("norm_rope_act")
CPU = [name for name in RUNNERS if name.startswith("cpu")]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [1, 3, 15, 16, 17, 63, 64, 65, 576, 1001]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("residual", [False, True])
def test_rms_norm_precision(runner: str, dtype: torch.dtype, residual: bool) -> None:
    for size in SIZES:
        x, old = 3 * normal(5, size, seed=size, dtype=dtype), normal(5, size, seed=1, dtype=dtype)
        weight = normal(size, seed=2, dtype=dtype)
        given_sum = (x.double() + old.double()) if residual else x.double()
        # What is normalised is what was stored: the sum, rounded.
        base = given_sum.to(dtype).double()
        truth = base * torch.rsqrt(base.square().mean(-1, keepdim=True) + 1e-6) * weight.double()
        plain = torch.nn.functional.rms_norm(base.to(dtype), (size,), weight, 1e-6)
        kept = old.clone() if residual else None
        with running(runner) as backend:
            at = device_of(runner)
            got = call_on(at, rms_norm, x, weight, 1e-6, residual=kept, backend=backend)
        assert_as_good_as_torch(got, plain, truth)
        if kept is not None:
            assert torch.equal(kept, given_sum.to(dtype))


@pytest.mark.parametrize("runner", RUNNERS)
def test_rms_norm_in_place_strided_and_of_zeros(runner: str) -> None:
    wide, weight = normal(9, 80, dtype=torch.float32), normal(40, seed=1, dtype=torch.float32)
    x = wide[:, 20:60]
    with running(runner) as backend:
        at = device_of(runner)
        expected = call_on(at, rms_norm, x.clone(), weight, 1e-5, backend=backend)
        kept = wide.clone()
        assert call_on(at, rms_norm, x, weight, 1e-5, out=x, backend=backend) is x
        zero = call_on(at, rms_norm, torch.zeros(2, 40), weight, 1e-5, backend=backend)
    assert torch.equal(x, expected)
    assert torch.equal(wide[:, :20], kept[:, :20])
    assert torch.equal(wide[:, 60:], kept[:, 60:])
    assert torch.equal(zero, torch.zeros_like(zero))


def rope_case(
    seed: int,
    *,
    rows: int = 11,
    heads: tuple[int, int] = (4, 2),
    dim: int = 24,
    rotary: int = 24,
    norms: bool = False,
    dtype: torch.dtype = torch.float64,
    cache: torch.dtype | None = None,
) -> dict[str, torch.Tensor | None]:
    """Arguments of `rope_kv_write`; q, k and v are views of one fused projection."""
    fused = normal(rows, heads[0] + 2 * heads[1], dim, seed=seed, dtype=dtype)
    q, k, v = fused.split([heads[0], heads[1], heads[1]], dim=1)
    angle = torch.arange(rows, dtype=torch.float64)[:, None] * normal(1, rotary // 2, seed=3)
    angle = torch.cat([angle, angle], -1)
    pages = -(-rows // 4) + 1
    slots = torch.randperm(4 * pages, generator=torch.Generator().manual_seed(seed))[:rows]
    slots[::5] = -1
    caches = normal(2, pages, heads[1], 4, dim, seed=4, dtype=cache or dtype)
    return {
        "q": q,
        "k": k,
        "v": v,
        "cos": angle.cos().to(dtype),
        "sin": angle.sin().to(dtype),
        "k_cache": caches[0],
        "v_cache": caches[1],
        "slots": slots,
        "q_norm": normal(dim, seed=5, dtype=dtype) if norms else None,
        "k_norm": normal(dim, seed=6, dtype=dtype) if norms else None,
    }


def in_double(case: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    return {
        name: value.double() if value is not None and value.is_floating_point() else value
        for name, value in case.items()
    }


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("dim", "rotary"), [(2, 2), (24, 24), (64, 64), (66, 34), (80, 32), (129, 128), (16, 0)]
)
def test_rope_precision(
    runner: str, dtype: torch.dtype, norms: bool, dim: int, rotary: int
) -> None:
    case = rope_case(dim, dim=dim, rotary=rotary, norms=norms, dtype=dtype)
    truth = in_double(case)
    plain = {name: None if value is None else value.clone() for name, value in case.items()}
    rope_kv_write(**truth, backend="reference")  # type: ignore[arg-type]
    rope_kv_write(**plain, backend="reference")  # type: ignore[arg-type]
    with running(runner) as backend:
        call_on(device_of(runner), rope_kv_write, **case, backend=backend)
    for name in ("q", "k_cache", "v_cache"):
        got, same, exact = case[name], plain[name], truth[name]
        assert got is not None
        assert same is not None
        assert exact is not None
        assert_as_good_as_torch(got, same, exact)
    assert case["v_cache"] is not None
    assert plain["v_cache"] is not None
    assert torch.equal(case["v_cache"], plain["v_cache"]), "values are copied"


def test_the_reference_is_llama_rope() -> None:
    """Against transformers' own function, on its layout."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    case = rope_case(7)
    q, k, cos, sin = (case[name] for name in ("q", "k", "cos", "sin"))
    assert q is not None
    assert k is not None
    want_q, want_k = apply_rotary_pos_emb(
        q.clone().transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None]
    )
    rope_kv_write(**case, backend="reference")  # type: ignore[arg-type]
    torch.testing.assert_close(q, want_q[0].transpose(0, 1), rtol=1e-14, atol=1e-14)
    slots, k_cache = case["slots"], case["k_cache"]
    assert slots is not None
    assert k_cache is not None
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            torch.testing.assert_close(
                k_cache[slot // 4, :, slot % 4], want_k[0, :, row], rtol=1e-14, atol=1e-14
            )


@pytest.mark.parametrize("runner", CPU)
def test_float32_rope_has_the_bits_of_plain_torch(runner: str) -> None:
    case = rope_case(9, dim=40, rotary=36, dtype=torch.float32)
    same = {name: None if value is None else value.clone() for name, value in case.items()}
    rope_kv_write(**same, backend="reference")  # type: ignore[arg-type]
    with running(runner) as backend:
        rope_kv_write(**case, backend=backend)  # type: ignore[arg-type]
    for name in ("q", "k_cache", "v_cache"):
        got, want = case[name], same[name]
        assert got is not None
        assert want is not None
        assert torch.equal(got, want)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_bfloat16_cache_holds_rounded_float32(runner: str) -> None:
    narrow = rope_case(4, dtype=torch.float32, cache=torch.bfloat16)
    full = rope_case(4, dtype=torch.float32)
    with running(runner) as backend:
        call_on(device_of(runner), rope_kv_write, **narrow, backend=backend)
        call_on(device_of(runner), rope_kv_write, **full, backend=backend)
    slots = full["slots"]
    assert slots is not None
    used = slots[slots >= 0]
    for name in ("k_cache", "v_cache"):
        got, want = narrow[name], full[name]
        assert got is not None
        assert want is not None
        rounded = want.to(torch.bfloat16)
        assert torch.equal(
            got[used // 4, :, used % 4],
            rounded[used // 4, :, used % 4],
        )


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_act_mul_precision(runner: str, dtype: torch.dtype, activation: str) -> None:
    for size in SIZES:
        gate = 4 * normal(3, size, seed=size, dtype=dtype)
        up = normal(3, size, seed=1, dtype=dtype)
        truth = act_mul(gate.double(), up.double(), activation, backend="reference")  # type: ignore[arg-type]
        plain = act_mul(gate, up, activation, backend="reference")  # type: ignore[arg-type]
        with running(runner) as backend:
            got = call_on(device_of(runner), act_mul, gate, up, activation, backend=backend)
        assert_as_good_as_torch(got, plain, truth)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_act_mul_relative_error_and_extremes(runner: str, activation: str) -> None:
    """Small gates keep their relative precision; large ones pass or vanish; NaN stays."""
    exponents = torch.linspace(-30, 2, 4000, dtype=torch.float64)
    gate = torch.cat([10**exponents, -(10**exponents)])
    gate = gate[gate > -20].float()[None]
    truth = act_mul(gate.double(), torch.ones_like(gate).double(), activation, backend="reference")  # type: ignore[arg-type]
    special = torch.tensor([[0.0, -0.0, 3e4, torch.nan, 500.0, -500.0]])
    with running(runner) as backend:
        got, ends = (
            call_on(device_of(runner), act_mul, x, torch.ones_like(x), activation, backend=backend)
            for x in (gate, special)
        )
    # The definitions of gelu cancel for negative gates, in float64 too.
    clear = (truth.abs() > 1e-35) if activation == "silu" else (gate > 1e-3)
    assert ((got.double() - truth) / truth).abs()[clear].max() < 2e-6
    assert ends[0, :2].tolist() == [0.0, 0.0]
    assert ends[0, 2] == 3e4
    assert ends[0, 3].isnan()
    assert ends[0, 4] == 500.0
    assert ends[0, 5].abs() < 1e-30


@pytest.mark.parametrize("runner", CPU)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_bits_depend_on_the_row_alone(runner: str, data: st.DataObject) -> None:
    rows, size = data.draw(st.integers(2, 70)), data.draw(st.integers(1, 700))
    first = data.draw(st.integers(0, rows - 1))
    part = slice(first, data.draw(st.integers(first + 1, rows)))
    x, up = (normal(rows, size, seed=s, dtype=torch.float32) for s in (0, 1))
    weight = normal(size, seed=2, dtype=torch.float32)
    case = rope_case(1, rows=rows, dim=2 * data.draw(st.integers(1, 40)), rotary=2, norms=True)
    some = dict(case)
    for name in ("q", "k", "v", "cos", "sin", "slots"):
        value = case[name]
        assert value is not None
        some[name] = value[part].clone()
    with running(runner) as backend:
        whole = rms_norm(x, weight, 1e-6, backend=backend)
        with torch_threads(3):
            assert torch.equal(whole, rms_norm(x, weight, 1e-6, backend=backend))
        assert torch.equal(whole[part], rms_norm(x[part], weight, 1e-6, backend=backend))
        acted = act_mul(x, up, backend=backend)
        assert torch.equal(acted[part], act_mul(x[part], up[part], backend=backend))
        rope_kv_write(**some, backend=backend)  # type: ignore[arg-type]
        rope_kv_write(**case, backend=backend)  # type: ignore[arg-type]
    assert case["q"] is not None
    assert some["q"] is not None
    assert torch.equal(case["q"][part], some["q"])


@pytest.mark.parametrize("runner", [name for name in RUNNERS if device_of(name).type == "cpu"])
def test_a_bad_slot_writes_nothing(runner: str) -> None:
    case = rope_case(2)
    before = {name: None if value is None else value.clone() for name, value in case.items()}
    assert case["slots"] is not None
    case["slots"][3] = 4 * 100
    with running(runner) as backend, pytest.raises(ValueError, match="slots"):
        rope_kv_write(**case, backend=backend)  # type: ignore[arg-type]
    for name in ("q", "k_cache", "v_cache"):
        left, right = case[name], before[name]
        assert left is not None
        assert right is not None
        assert torch.equal(left, right)


@pytest.mark.parametrize("bad", [-2, 4 * 100, 1 << 40])
def test_a_gpu_passes_over_a_bad_slot(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check on the host would have to wait for the GPU; the kernel does what it does for -1."""
    kernels = pytest.importorskip("fastsi.ops.norm_rope_act._triton", reason="no Triton")
    monkeypatch.setattr(kernels, "_require_inside", lambda *_: None)  # made of CPU tensors alone
    one, two = (rope_case(2) for _ in "ab")
    for case, slot in ((one, bad), (two, -1)):
        assert case["slots"] is not None
        assert case["slots"][3] >= 0
        case["slots"][3] = slot
    with running("triton") as backend:
        call_on(device_of("triton"), rope_kv_write, **one, backend=backend)
    rope_kv_write(**two, backend="reference")  # type: ignore[arg-type]
    for name in ("q", "k_cache", "v_cache"):
        torch.testing.assert_close(one[name], two[name])


def test_a_row_may_be_longer_than_a_block_of_the_triton_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = pytest.importorskip("fastsi.ops.norm_rope_act._triton", reason="no Triton")
    monkeypatch.setattr(kernels, "_WIDEST_ROW", 64)
    x, old, weight = (normal(3, 150, seed=s, dtype=torch.bfloat16) for s in (0, 1, 2))
    for residual in (None, old):
        kept = [None if residual is None else residual.clone() for _ in range(2)]
        with running("triton") as backend:
            at = device_of("triton")
            got = call_on(at, rms_norm, x, weight[0], 1e-6, residual=kept[0], backend=backend)
        want = rms_norm(x, weight[0], 1e-6, residual=kept[1], backend="reference")
        torch.testing.assert_close(got, want)
        assert residual is None or torch.equal(kept[0], kept[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(("heads", "rows"), [((1, 1), 1), ((5, 5), 2), ((9, 3), 3), ((4, 4), 1)])
def test_blocks_of_heads_of_the_triton_kernel(heads: tuple[int, int], rows: int) -> None:
    """Heads that fill blocks of four, or leave lanes idle, as the reference has them."""
    one, two = (rope_case(5, rows=rows, heads=heads, dim=8, rotary=6, norms=True) for _ in "ab")
    with running("triton") as backend:
        call_on(device_of("triton"), rope_kv_write, **one, backend=backend)
    rope_kv_write(**two, backend="reference")  # type: ignore[arg-type]
    for name in ("q", "k_cache", "v_cache"):
        torch.testing.assert_close(one[name], two[name])


def test_bad_arguments_are_refused() -> None:
    x, weight = torch.zeros(3, 8), torch.ones(8)
    for call, message in [
        (lambda: rms_norm(x[0], weight, 1e-6), "x: shape"),
        (lambda: rms_norm(x, weight[:7], 1e-6), "weight: shape"),
        (lambda: rms_norm(x, weight.double(), 1e-6), "weight: dtype is torch.float64"),
        (lambda: rms_norm(x, weight, 1e-6, residual=x.double()), "residual: dtype"),
        (lambda: rms_norm(x, weight, 1e-6, out=torch.zeros(8, 3).t()), "out: last dimension"),
        (lambda: rms_norm(x.int(), weight, 1e-6), "x: dtype is torch.int32"),
        (lambda: act_mul(x, x[:, :7]), "up: shape"),
        (lambda: act_mul(x, x.bfloat16()), "up: dtype"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ConfigError, match="did you mean 'gelu_tanh'"):
        act_mul(x, x, "gelu_than")  # type: ignore[arg-type]
    for name, value, message in [
        ("k", torch.zeros(11, 2, 23, dtype=torch.float64), "k: shape"),
        ("v", torch.zeros(11, 1, 24, dtype=torch.float64), "v: shape"),
        ("cos", torch.zeros(11, 24), "sin: dtype"),
        ("k_norm", torch.zeros(23, dtype=torch.float64), "k_norm: shape"),
        ("k_cache", torch.zeros(4, 2, 4, 24, dtype=torch.bfloat16), "k_cache: dtype"),
        ("slots", torch.zeros(11, dtype=torch.int32), "slots: dtype"),
    ]:
        with pytest.raises(ValueError, match=message):
            rope_kv_write(**(rope_case(0) | {name: value}))  # type: ignore[arg-type]
    odd = rope_case(0) | {n: torch.zeros(11, 3, dtype=torch.float64) for n in ("cos", "sin")}
    with pytest.raises(ValueError, match="rotates 3 elements"):
        rope_kv_write(**odd)  # type: ignore[arg-type]
