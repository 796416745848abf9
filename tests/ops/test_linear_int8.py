"""linear in mode "int8": every instruction set gives the bits of the definition in torch.

Weights are packed for the instruction set in force: AVX2 without VNNI takes rows of 7 bits and a
scale per 64 inputs of rows and weights, all others rows of 8 bits and one scale.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi import _ext
from fastsi.ops import PackedWeight, linear, pack_weight
from fastsi.ops.linear import int8
from tests.ops.support import running, torch_threads

ISAS = ("portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx")
RUNNERS = [f"cpu-{isa}" for isa in ISAS]
ROW_SCALES = [runner for runner in RUNNERS if runner != "cpu-avx2"]
FORMS = ["cpu-portable", "cpu-avx2"]
"""An instruction set of each form of the rows."""
ACTIVATIONS = ["silu", "gelu", "gelu_tanh"]


def normal(*shape: int, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * spread


def packed_of(*weights: torch.Tensor, pair: bool = False) -> PackedWeight:
    return pack_weight(weights, mode="int8", pair=pair)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("rows", [1, 3, 8, 15, 16, 17, 31, 32, 33, 50])
@pytest.mark.parametrize("pair", [False, True])
def test_the_same_bits_as_the_definition(runner: str, rows: int, pair: bool) -> None:
    for n, k in [(1, 1), (15, 63), (16, 64), (17, 65), (33, 200), (64, 129), (80, 576)]:
        x, weights = normal(rows, k), [normal(n, k, seed=s + 1) for s in range(2 if pair else 1)]
        bias, residual = normal(n * len(weights), seed=3), normal(rows, n, seed=4)
        for names in ({}, {"bias": bias, "residual": residual}):
            with running(runner) as backend:
                packed = packed_of(*weights, pair=pair)
                expected = linear(x, packed, backend="reference", **names)
                assert torch.equal(linear(x, packed, backend=backend, **names), expected)


@pytest.mark.parametrize("runner", RUNNERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_random_calls(runner: str, data: st.DataObject) -> None:
    draw = data.draw
    rows, k = draw(st.integers(0, 60)), draw(st.integers(1, 400))
    pair = draw(st.booleans())
    sizes = draw(st.lists(st.integers(1, 90), min_size=1, max_size=3))
    sizes = [sizes[0]] * 2 if pair else sizes
    seed = draw(st.integers(0, 2**32))
    weights = [normal(size, k, seed=seed + i) for i, size in enumerate(sizes)]
    source = normal(rows + 5, k + 3, seed=seed)[:, 3:]
    index = torch.arange(rows).flip(0) + 2 if draw(st.booleans()) else None
    x = source if index is not None else source[:rows]
    with running(runner) as backend, torch_threads(draw(st.integers(1, 3))):
        packed = packed_of(*weights, pair=pair)
        expected = linear(x, packed, row_index=index, backend="reference")
        wide = torch.full((rows, packed.out_features + 9), 7.0)
        out = linear(x, packed, row_index=index, out=wide[:, 4:-5], backend=backend)
    assert torch.equal(out, expected)
    assert (wide[:, :4] == 7).all()
    assert (wide[:, -5:] == 7).all()


@pytest.mark.parametrize("runner", ROW_SCALES[1:])
@pytest.mark.parametrize("pair", [False, True])
def test_activations_have_the_same_bits_everywhere(runner: str, pair: bool) -> None:
    x, weights = normal(37, 100, spread=3.0), [normal(40, 100, seed=1)] * (2 if pair else 1)
    with running("cpu-portable"):
        packed = packed_of(*weights, pair=pair)
    for activation in ACTIVATIONS:
        with running("cpu-portable") as backend:
            expected = linear(x, packed, activation=activation, backend=backend)
        with running(runner) as backend:
            got = linear(x, packed, activation=activation, backend=backend)
        assert torch.equal(got, expected)


@pytest.mark.parametrize("runner", FORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_over_their_whole_range(runner: str, activation: str) -> None:
    x = torch.cat([torch.linspace(-100, 100, 20001), normal(5000), normal(5000) * 1e-4])
    x = torch.cat([x, torch.tensor([0.0, 1e30, -1e30, 1e-30, -1e-30])])[:, None]
    with running(runner) as backend:
        packed = packed_of(torch.ones(1, 1))
        before = linear(x, packed, backend=backend).double()
        got = linear(x, packed, activation=activation, backend=backend)
    truth = linear(
        before, pack_weight([torch.ones(1, 1)]), activation=activation, backend="reference"
    )
    error = (got.double() - truth).abs() / truth.abs().clamp(min=1.0)
    assert error.max() <= 8 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(("n", "k", "pair"), [(70, 200, False), (96, 700, True), (576, 64, False)])
def test_bits_depend_on_the_row_alone(runner: str, n: int, k: int, pair: bool) -> None:
    """Any number of rows, any place among them, any number of threads."""
    x = normal(1100, k, seed=2)
    with running(runner) as backend:
        packed = packed_of(*[normal(n, k, seed=s) for s in range(2 if pair else 1)], pair=pair)

        def run(rows: torch.Tensor) -> torch.Tensor:
            return linear(rows, packed, activation="silu", backend=backend)

        few = run(x[:300])
        for threads in (1, 2, 3):
            with torch_threads(threads):
                assert torch.equal(run(x)[:300], few)  # more blocks than a work item takes
        with torch_threads(2):
            for count in range(1, 71, 3):
                start = (37 * count) % (300 - count)
                assert torch.equal(run(x[start : start + count]), few[start : start + count])
            assert torch.equal(run(x[:300].flip(0)).flip(0), few)


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_largest_sums_do_not_saturate(runner: str) -> None:
    """All integers are as large as can be, of rows and of weights: sums in 16 bits would clip."""
    k = 64 * 2048
    weight, x = torch.zeros(3, k), torch.zeros(4, k)
    weight[0, ::64], weight[1, ::64], weight[2, ::64] = 1, -1, 1
    x[0, ::64], x[1, ::64], x[2, 0] = 2, -2, 5
    x[3, ::128], x[3, 64::128] = 1, -1
    with running(runner) as backend:
        packed = packed_of(weight)
        # 64, not 127: four of them are added in 16 bits.
        assert packed.integers()[0].abs().min() == (64 if runner == "cpu-avx2" else 127)
        got = linear(x, packed, backend=backend)
        stands_for = packed.unpack()[0]
    torch.testing.assert_close(got, x @ stands_for.T, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stands_for, weight, rtol=0.01, atol=1e-6)


def test_depths_whose_sums_could_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match="int8 takes 1 to 131072"):
        packed_of(torch.zeros(1, 64 * 2048 + 1))


@pytest.mark.parametrize("runner", ["reference", *RUNNERS])
def test_rows_that_are_not_finite_or_nearly_zero(runner: str) -> None:
    """They say so in their own outputs, and leave the rows beside them alone."""
    x = normal(20, 150)
    x[2, 149], x[5, 0], x[7, 80] = torch.nan, torch.inf, -torch.inf
    x[9], x[11], x[13] = 0, 1e-42, 1e34
    clean = [row for row in range(20) if row not in (2, 5, 7, 9, 11, 13)]
    with running(runner) as backend:
        packed = packed_of(normal(40, 150, seed=1))
        expected = linear(x[clean], packed, backend="reference")
        got = linear(x, packed, backend=backend)
        active = linear(x, packed, activation="silu", backend=backend)
    assert torch.equal(got[clean], expected)
    assert got[[2, 5, 7]].isnan().all()
    assert active[[2, 5, 7]].isnan().all()
    assert (got[[9, 11]] == 0).all()
    assert got[13].isfinite().all()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_results_too_large_for_caches(runner: str, threads: int) -> None:
    """They are written past the caches where they begin on a line, and are complete on return."""
    rows, n = 66, 32768 + 32
    x = normal(rows, 64)
    lines = torch.empty(rows * n + 32)
    with running(runner) as backend, torch_threads(threads):
        packed = packed_of(normal(n, 64, seed=1))
        first = -lines.data_ptr() % 64 // 4
        streamed = linear(x, packed, out=lines[first:][: rows * n].view(rows, n), backend=backend)
        few = [linear(x[i : i + 11], packed, backend=backend) for i in range(0, rows, 11)]
    assert streamed.nbytes > 2**23
    assert torch.equal(streamed, torch.cat(few))


@pytest.mark.parametrize("runner", RUNNERS)
def test_packing_has_the_same_bits_everywhere(runner: str) -> None:
    weights = [normal(21, 130), normal(21, 130, seed=1) * 1e-3]
    weights[0][3], weights[1][4], weights[0][5, 64:128] = 0, 1e-41, 1.0
    quantise = int8.quantise_steps if runner == "cpu-avx2" else int8.quantise
    expected = quantise(torch.cat(weights))
    with running(runner):
        for pair in (False, True):
            packed = packed_of(*weights, pair=pair)
            steps = runner == "cpu-avx2"
            assert packed.layout == ("int8_panel16_steps" if steps else "int8_panel16")
            assert all(map(torch.equal, packed.integers(), expected))


def test_sums_of_four_products_fit_16_bits() -> None:
    """Step scales: rows are bytes of 0 to 126, and two results of vpmaddubsw are added."""
    weight = normal(40, 256)
    weight[1] = 1.0
    # All of one sign after the rotation, in every group that is added: the scale has to grow.
    weight[2:] = int8.rotate(weight[2:].abs())
    values, scales = int8.quantise_steps(weight)
    assert 126 * int8.QUAD < 2**15
    assert int8.QUAD - 4 <= int8.largest_quads(values.int()).max() <= int8.QUAD
    error = int8.dequantised(values, scales, 256) - weight
    assert int8.rotate(error).abs().max() <= 0.501 * scales.max()
    x = torch.zeros(2, 256)
    x[0, ::64] = 1.0  # every byte of the first row is 126, the scale of the second is NaN
    x[1] = torch.nan
    with running("cpu-avx2") as backend:
        packed = packed_of(weight)
        got = linear(x, packed, backend=backend)
        assert torch.equal(got[0], linear(x, packed, backend="reference")[0])
    assert got[1].isnan().all()


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = normal(9, 130), [normal(21, 130, seed=s) for s in (1, 2)]
    with running("cpu-portable"):
        panels = packed_of(*weights, pair=True)
    with monkeypatch.context() as patch:
        patch.setattr(_ext, "load", lambda name: (None, "not built"))
        rows = packed_of(*weights, pair=True)
    assert (rows.layout, rows.handle) == ("rows", None)
    assert torch.equal(
        linear(x, rows, activation="silu"),
        linear(x, panels, activation="silu", backend="reference"),
    )
    for mine, theirs in zip(rows.unpack(), panels.unpack(), strict=True):
        assert torch.equal(mine, theirs)


def test_rotation_is_a_hadamard_matrix_per_block() -> None:
    matrix = int8.rotate(torch.eye(64))
    assert set(matrix.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(matrix @ matrix.T, 64 * torch.eye(64))
    two = int8.rotate(torch.eye(100))
    assert torch.equal(two[:64, 64:], torch.zeros(64, 64))
    assert torch.equal(two[64:, 64:], matrix[:36])


def test_unpacked_weights_are_within_half_a_grain() -> None:
    weights = [normal(30, 200), normal(11, 200, seed=1) * 1e3]
    packed = packed_of(*weights)
    assert packed.splits == (30, 11)
    assert packed.nbytes < 1.7 * 41 * 200
    scales = packed.integers()[1].split(packed.splits)
    for weight, unpacked, scale in zip(weights, packed.unpack(), scales, strict=True):
        # In the rotated domain each value errs by half a grain; turning back averages 64 of them.
        rotated = int8.rotate(weight - unpacked).abs().view(len(weight), -1, 64)
        grain = scale.view(len(weight), -1, 1)
        assert (rotated <= 0.501 * grain + 1e-5 * weight.abs().max()).all()


@pytest.mark.parametrize(("runner", "most"), [("cpu-portable", 0.01), ("cpu-avx2", 0.015)])
def test_error_is_small_and_outliers_do_not_spoil_it(runner: str, most: float) -> None:
    """Where inputs stick out, products err less than half as much as those of plain rounding."""
    x, weight = normal(64, 576), normal(200, 576, seed=1)
    x[:, [7, 300]] *= 60
    exact = x @ weight.T

    def rounded(values: torch.Tensor) -> torch.Tensor:
        grain = values.abs().amax(dim=1, keepdim=True) / 127
        return (values / grain).round() * grain

    with running(runner) as backend:
        error = (linear(x, packed_of(weight), backend=backend) - exact).norm() / exact.norm()
    plain = (rounded(x) @ rounded(weight).T - exact).norm() / exact.norm()
    assert error < most
    assert error < 0.5 * plain


def test_a_scale_per_64_inputs_makes_up_for_a_bit() -> None:
    """Where blocks of inputs differ in size, rows of 7 bits err no more than rows of 8."""
    sizes = torch.logspace(-1, 1, 9).repeat_interleave(64)
    x, weight = normal(64, 576) * sizes, normal(200, 576, seed=1) / sizes
    exact = x.double() @ weight.double().T
    errors = []
    for runner in FORMS:
        with running(runner) as backend:
            errors.append((linear(x, packed_of(weight), backend=backend) - exact).norm())
    assert errors[1] <= errors[0]


@pytest.mark.parametrize("k", [64, 200])
def test_weights_of_the_other_form_are_refused(k: int) -> None:
    for made, used in (FORMS, FORMS[::-1]):
        with running(made):
            packed = packed_of(normal(16, k))
        with running(used) as backend, pytest.raises(ValueError, match="reads another form"):
            linear(normal(2, k), packed, backend=backend)


def test_broken_weights_are_refused_by_the_core() -> None:
    core, x = _ext.core(), normal(2, 64)
    from fastsi.ops._view import view

    data = torch.zeros(16 * 64, dtype=torch.uint8)
    steps = core.linear_int8_step_scales()
    scale, sums, out = torch.zeros(16), torch.zeros(16, dtype=torch.int32), torch.zeros(2, 16)
    for arguments, message in [
        (
            (view(data[:-1]), view(scale), view(sums), 16, 64, False, steps),
            "weights: dimension 0 is 1023",
        ),
        (
            (view(data), view(scale[:-1]), view(sums), 16, 64, False, steps),
            "scales: dimension 0 is 15",
        ),
        ((view(data), view(scale), view(scale), 16, 64, False, steps), "sums: is float32"),
        ((view(data), view(scale), view(sums), 15, 64, True, steps), "must have an even number"),
        ((view(data), view(scale), view(sums), 16, 0, False, steps), "int8 takes 1 to"),
    ]:
        handle = core.LinearInt8Weights(*arguments)
        with pytest.raises(ValueError, match=message):
            core.linear_int8(view(x), handle, None, None, None, 0, view(out), 1)
