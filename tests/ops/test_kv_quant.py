"""Int8 keys and values: the definition itself, and what `kv_write` and `rope_kv_write` store."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.errors import BackendUnavailable
from fastsi.ops import explain, kv_write, rope_kv_write
from fastsi.ops._int8 import hadamard, round_rows
from fastsi.ops.kv_quant import (
    dequantise,
    quantise_keys,
    quantise_values,
    rotate,
    rotation_block,
)
from tests.ops.support import runners, running, torch_threads

RUNNERS = [name for name in runners("kv_write") if name != "triton"]
HEAD_DIMS = [1, 2, 7, 12, 24, 32, 48, 64, 80, 96, 128, 192, 256]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def sylvester(size: int) -> torch.Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def empty_cache(pages: int, heads: int, size: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values, and their scales, with contents that a test can tell from results."""
    cache = torch.full((2, pages, heads, size, dim), 99, dtype=torch.int8)
    return cache, torch.full((2, pages, heads, size), -7.0)


@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_rotation_is_an_orthonormal_hadamard_matrix_of_blocks(dim: int) -> None:
    block = rotation_block(dim)
    assert block & (block - 1) == 0
    assert dim % block == 0
    assert block == 64 or dim // block % 2 == 1, "the largest power of two, at most 64"
    x = normal(5, 3, dim, seed=dim, dtype=torch.float64)
    matrix = torch.block_diag(*[sylvester(block)] * (dim // block))
    torch.testing.assert_close(hadamard(x, block), x @ matrix, rtol=1e-13, atol=1e-13)
    y = normal(5, 3, dim, seed=dim + 1, dtype=torch.float64)
    torch.testing.assert_close((rotate(x) * rotate(y)).sum(-1), (x * y).sum(-1))
    torch.testing.assert_close(rotate(rotate(x)), x)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), dim=st.integers(1, 256), magnitude=st.integers(-100, 100))
def test_rounding_errs_by_half_a_step_at_most(seed: int, dim: int, magnitude: int) -> None:
    x = normal(9, dim, seed=seed) * 2.0**magnitude
    x[3] = 0
    values, scale = round_rows(x)
    assert values.dtype == torch.int8
    largest = x.abs().amax(1)
    assert torch.equal(scale, largest / torch.tensor(127.0))
    assert (scale[3], values[3].abs().max()) == (0, 0)
    rest = largest > 0
    assert (values.abs().amax(1)[rest] == 127).all(), "all levels are used"
    error = (dequantise(values, scale, torch.float64) - x.double()).abs()
    assert (error <= scale[:, None].double() * (0.5 + 1e-4)).all()
    doubled = round_rows(2 * x)
    assert torch.equal(doubled[0], values), "integers do not depend on the unit"
    assert torch.equal(doubled[1], 2 * scale)


def test_rounding_is_to_nearest_even_at_the_edges_of_the_range() -> None:
    x = torch.tensor(
        [
            [127.0, 0.5, 1.5, 2.5, -0.5, -1.5],
            [2.0**-120, -(2.0**-121), 0, 0, 0, 0],
            [2.0**-121, 0, 0, 0, 0, 0],
            [1e-45, -1e-45, 0, 0, 0, 0],
            [torch.nan, 1, 2, 3, 4, 5],
            [1, 2, torch.inf, 3, 4, 5],
            [3e38, -1e38, 0, 0, 0, 0],
        ]
    )
    values, scale = round_rows(x)
    assert values[0].tolist() == [127, 0, 2, 2, 0, -2]
    assert values[1].tolist() == [127, -64, 0, 0, 0, 0]
    assert values[2:6].abs().max() == 0
    assert scale[2:4].tolist() == [0, 0]
    assert scale[4:6].isnan().all()
    assert values[6].tolist() == [127, -42, 0, 0, 0, 0]


@pytest.mark.parametrize("runner", RUNNERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_kv_write_stores_the_definition(runner: str, data: st.DataObject) -> None:
    """Bit for bit, in the slots of the rows and in no other; -1 skips a row."""
    seed = data.draw(st.integers(0, 2**32), label="seed")
    dim = data.draw(st.sampled_from(HEAD_DIMS) | st.integers(1, 256), label="head_dim")
    pages, heads, size = (data.draw(st.integers(1, top)) for top in (7, 3, 17))
    rows = data.draw(st.integers(0, min(pages * size, 60)), label="rows")
    slots = torch.randperm(pages * size, generator=torch.Generator().manual_seed(seed))[:rows]
    slots[torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.2] = -1
    k = normal(rows, heads, dim, seed=seed) * torch.logspace(-3, 3, dim)
    v = normal(rows, heads, dim, seed=seed + 1)
    if rows > 3:
        k[0], v[1], k[2, 0, -1], v[3, -1, 0] = 0, 0, torch.nan, -torch.inf
        k[3] *= 2.0**-125
    cache, scales = empty_cache(pages, heads, size, dim)
    expected, expected_scales = cache.clone(), scales.clone()
    keys, values = quantise_keys(k), quantise_values(v)
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            for place, (integers, scale) in enumerate((keys, values)):
                expected[place, slot // size, :, slot % size] = integers[row]
                expected_scales[place, slot // size, :, slot % size] = scale[row]
    with running(runner) as backend:
        kv_write(k, v, *cache, slots, k_scale=scales[0], v_scale=scales[1], backend=backend)
    assert torch.equal(cache, expected)
    torch.testing.assert_close(scales, expected_scales, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("runner", RUNNERS)
def test_strided_rows_on_several_threads(runner: str) -> None:
    rows, dim = 700, 96
    fused = normal(rows, 4, dim, seed=0)
    k, v = fused[:, :2], fused[:, 2:].transpose(1, 2).contiguous().transpose(1, 2)
    slots = torch.randperm(800, generator=torch.Generator().manual_seed(1))[:rows]
    cache, scales = empty_cache(50, 2, 16, dim)
    with running(runner) as backend, torch_threads(3):
        kv_write(k, v, *cache, slots, k_scale=scales[0], v_scale=scales[1], backend=backend)
    for place, (integers, scale) in enumerate((quantise_keys(k), quantise_values(v))):
        assert torch.equal(cache[place].transpose(1, 2).flatten(0, 1)[slots], integers)
        assert torch.equal(scales[place].transpose(1, 2).flatten(0, 1)[slots], scale)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("dim", "rotary"), [(2, 2), (24, 24), (64, 64), (80, 32), (96, 96), (129, 128), (16, 0)]
)
def test_rope_kv_write_stores_what_it_would_have_written(
    runner: str, norms: bool, dim: int, rotary: int
) -> None:
    """The float32 keys of the same backend, rounded by the definition; queries as ever."""
    rows, heads, size = 13, 2, 4
    q, k, v = normal(rows, 4 + 2 * heads, dim, seed=dim).split([4, heads, heads], dim=1)
    angle = normal(rows, rotary // 2, seed=3).repeat(1, 2)
    slots = torch.arange(rows) + 2
    slots[::5] = -1
    options: dict[str, Any] = {}
    if norms:
        options = {"q_norm": normal(dim, seed=5), "k_norm": normal(dim, seed=6)}
    wide = torch.zeros(2, 4, heads, size, dim)
    cache, scales = empty_cache(4, heads, size, dim)
    turned, same = q.clone(), q.clone()
    with running(runner) as backend:
        options["backend"] = backend
        rope_kv_write(turned, k, v, angle.cos(), angle.sin(), *wide, slots, **options)
        options |= {"k_scale": scales[0], "v_scale": scales[1]}
        rope_kv_write(same, k, v, angle.cos(), angle.sin(), *cache, slots, **options)
    assert torch.equal(same, turned)
    used = slots[slots >= 0]
    for place, (integers, scale) in enumerate((quantise_keys(wide[0]), quantise_values(wide[1]))):
        for got, want in ((cache[place], integers), (scales[place], scale)):
            assert torch.equal(
                got[used // size, :, used % size], want[used // size, :, used % size]
            )
    untouched = torch.ones(4 * size, dtype=torch.bool)
    untouched[used] = False
    assert (scales.transpose(2, 3).reshape(2, -1, heads)[:, untouched] == -7).all()
    assert (cache.transpose(2, 3).reshape(2, -1, heads, dim)[:, untouched] == 99).all()


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_bad_slot_writes_nothing(runner: str) -> None:
    case = write_case(slots=torch.tensor([3, 32]))
    with running(runner) as backend, pytest.raises(ValueError, match="slots"):
        kv_write(**case, backend=backend)
    for name, value in (("k_cache", 99), ("v_cache", 99), ("k_scale", -7), ("v_scale", -7)):
        assert (case[name] == value).all()


def write_case(**changes: Any) -> dict[str, Any]:
    """Arguments that fit, but for the changes."""
    cache, scales = empty_cache(2, 1, 16, 4)
    k = torch.ones(2, 1, 4)
    named: dict[str, Any] = {"k": k, "v": k, "k_cache": cache[0], "v_cache": cache[1]}
    named |= {"slots": torch.tensor([0, 1]), "k_scale": scales[0], "v_scale": scales[1]} | changes
    return named


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k_scale": None}, "k_scale: the cache is torch.int8: is missing"),
        ({"v_scale": None}, "v_scale: the cache is torch.int8: is missing"),
        ({"k_scale": torch.zeros(2, 1, 15)}, r"k_scale: shape is \[2, 1, 15\]"),
        ({"v_scale": torch.zeros(2, 1, 16).double()}, "v_scale: dtype is torch.float64"),
        ({"k_scale": torch.zeros(2, 1, 32)[..., ::2]}, "k_scale: must be contiguous"),
        ({"v_cache": torch.zeros(2, 1, 16, 4)}, "v_cache: dtype is torch.float32"),
        (
            {"k_cache": torch.zeros(2, 1, 16, 4), "v_cache": torch.zeros(2, 1, 16, 4)},
            "k_scale: the cache is torch.float32: leave it out",
        ),
        (
            {"k": torch.ones(2, 1, 4).double(), "v": torch.ones(2, 1, 4).double()},
            "k_cache: dtype is torch.int8, must be torch.float64",
        ),
        (
            {"k": torch.ones(2, 1, 4).half(), "v": torch.ones(2, 1, 4).half()},
            "k_cache: dtype is torch.int8, must be torch.float16",
        ),
        ({"k_cache": torch.zeros(2, 1, 16, 4).half()}, "torch.bfloat16 or torch.int8"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(runner: str, changes: Any, message: str) -> None:
    case = write_case(**changes)
    with running(runner) as backend, pytest.raises(ValueError, match=message):
        kv_write(**case, backend=backend)


def test_explain_says_who_has_int8_caches() -> None:
    cache = torch.zeros(1, 1, 1, 1, dtype=torch.int8)
    for op in ("kv_write", "norm_rope_act", "segment_attention"):
        text = explain(op, torch.zeros(1), cache)
        assert "uses cpu" in text
        assert "triton: has no int8 cache" in text
        half = explain(op, torch.zeros(1, dtype=torch.bfloat16), cache)
        assert "backend 'auto' cannot run" in half
        assert "cpu: keeps float32 in int8 caches, not bfloat16" in half
    case = write_case()
    with pytest.raises(BackendUnavailable, match="triton: has no int8 cache"):
        kv_write(**case, backend="triton")
