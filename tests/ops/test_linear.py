"""linear: every backend against float64; packing, epilogues, fixed bits, refusals.

Modes "fp32" and "bf16"; "int8" is in test_linear_int8.py.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi import _ext
from fastsi.errors import ConfigError
from fastsi.ops import PackedWeight, explain, linear, pack_weight
from fastsi.ops._view import view
from tests.ops.support import assert_as_good_as_torch, runners, running, torch_threads

RUNNERS = [name for name in runners("linear") if name not in ("cuda", "triton")]
"""What runs on other hardware, from weights in another layout, is in test_linear_gpu.py."""
CPU_RUNNERS = [name for name in RUNNERS if name.startswith("cpu")]
MODES = ["fp32", "bf16"]
ACTIVATIONS = [None, "silu", "gelu", "gelu_tanh"]


def normal(*shape: int, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * spread


def plain(x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.linear(x, torch.cat(weights).to(x.dtype))


def as_stored(values: torch.Tensor, mode: str) -> torch.Tensor:
    """``values`` as the arithmetic of ``mode`` takes them."""
    return values.bfloat16().to(values.dtype) if mode == "bf16" else values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("rows", [1, 5, 6, 7, 16, 17, 33])
@pytest.mark.parametrize(
    ("n", "k"),
    [(1, 1), (8, 2), (63, 31), (64, 32), (65, 33), (16, 128), (17, 129), (100, 500), (48, 1025)],
)
def test_precision(runner: str, mode: str, rows: int, n: int, k: int) -> None:
    # Plain torch on many rows: for few it has other kernels, and on few sums it is exact by luck.
    x, weight = as_stored(normal(200, k), mode), as_stored(normal(n, k, seed=1), mode)
    expected = plain(x, [weight])
    got = expected.clone()
    with running(runner) as backend:
        got[:rows] = linear(x[:rows], pack_weight([weight], mode=mode), backend=backend)
    assert_as_good_as_torch(got, expected, plain(x.double(), [weight]))


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("kind", ["wide range", "cancellation", "long"])
def test_precision_where_it_is_hard(runner: str, kind: str) -> None:
    """Rows whose elements differ by many powers of ten, sums that cancel, and long sums.

    Compared row by row with a scale of its own: the sum of the products' magnitudes.
    """
    generator = torch.Generator().manual_seed(7)
    k = 8192 if kind == "long" else 640
    x, weight = normal(40, k), normal(48, k, seed=1)
    if kind == "wide range":
        x *= torch.exp(torch.randn(40, k, generator=generator) * 8)
        weight *= torch.exp(torch.randn(48, k, generator=generator) * 8)
    if kind == "cancellation":
        x[:, k // 2 :] = x[:, : k // 2]
        weight[:, k // 2 :] = -weight[:, : k // 2] * (1 + 1e-6 * normal(48, k // 2, seed=2))
    truth = plain(x.double(), [weight])
    scale = plain(x.double().abs(), [weight.abs()])
    with running(runner) as backend:
        got = linear(x, pack_weight([weight]), backend=backend)
    error = ((got.double() - truth).abs() / scale).max().item()
    allowed = ((plain(x, [weight]).double() - truth).abs() / scale).max().item()
    assert error <= 2 * max(allowed, torch.finfo(torch.float32).eps), (error, allowed)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("n", [1, 7, 16, 17, 40, 129])
def test_what_follows_the_product(
    runner: str, mode: str, activation: str | None, pair: bool, n: int
) -> None:
    # torch multiplies few features, or rows, by other means, with errors of other size; so it is
    # given many of both, and the kernel some of the features.
    rows, features = 300, 64 + n
    spread = 0.3 if pair else 1.0
    weights = [normal(features, 50, seed=s, spread=spread) for s in range(1, 3 if pair else 2)]
    biases = [normal(features, seed=5 + i) for i in range(len(weights))]
    x, residual = normal(rows, 50, seed=3), normal(rows, features, seed=4)
    whole, part = pack_weight(weights, mode=mode, pair=pair), [weight[:n] for weight in weights]
    for chosen in ((), ("bias",), ("residual",), ("bias", "residual")):
        names = {"bias": torch.cat(biases), "residual": residual}
        some = {"bias": torch.cat([bias[:n] for bias in biases]), "residual": residual[:, :n]}
        names, some = ({name: each[name] for name in chosen} for each in (names, some))
        doubles = {name: tensor.double() for name, tensor in names.items()}
        asked = {"activation": activation, "backend": "reference"}
        expected = linear(x, whole, **asked, **names)[:, :n]
        truth = linear(x.double(), whole, **asked, **doubles)[:, :n]
        with running(runner) as backend:
            packed = pack_weight(part, mode=mode, pair=pair)
            got = linear(x, packed, activation=activation, backend=backend, **some)
        assert got.shape == (rows, n)
        assert_as_good_as_torch(got, expected, truth)


def test_reference_is_written_out() -> None:
    gate, up, x = normal(6, 9), normal(6, 9, seed=1), normal(4, 9, seed=2)
    bias, residual = normal(12, seed=3), normal(4, 6, seed=4)
    got = linear(
        x,
        pack_weight([gate, up], pair=True),
        bias=bias,
        residual=residual,
        activation="silu",
        backend="reference",
    )
    first, second = x @ gate.T + bias[:6], x @ up.T + bias[6:]
    torch.testing.assert_close(got, first * torch.sigmoid(first) * second + residual)


@pytest.mark.parametrize("runner", CPU_RUNNERS)
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_activations_over_their_whole_range(runner: str, activation: str) -> None:
    """Within a few units in the last place of the largest of |x| and 1, and limits kept."""
    x = torch.cat([torch.linspace(-100, 100, 20001), normal(5000), normal(5000) * 1e-4])
    x = torch.cat([x, torch.tensor([0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38])])[:, None]
    with running(runner) as backend:
        got = linear(x, pack_weight([torch.ones(1, 1)]), activation=activation, backend=backend)
    truth = linear(
        x.double(), pack_weight([torch.ones(1, 1)]), activation=activation, backend="reference"
    )
    error = (got.double() - truth).abs() / truth.abs().clamp(min=1.0)
    assert error.max() <= 4 * torch.finfo(torch.float32).eps
    assert (got[x.abs() < 1e-39].abs() < 1e-38).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runner", RUNNERS)
def test_row_index_gathers_rows(runner: str, mode: str) -> None:
    x, weight = normal(20, 40), normal(30, 40, seed=1)
    index = torch.tensor([19, 0, 7, 7, 3])
    residual = normal(5, 30, seed=2)
    with running(runner) as backend:
        packed = pack_weight([weight], mode=mode)
        got = linear(x, packed, row_index=index, residual=residual, backend=backend)
        expected = linear(x[index], packed, residual=residual, backend=backend)
        assert torch.equal(got, expected)
        assert linear(x, packed, row_index=index[:0], backend=backend).shape == (0, 30)
        for bad in (20, -1):
            with pytest.raises((ValueError, IndexError)):
                linear(x[:5], packed, row_index=torch.tensor([0, bad]), backend="cpu")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runner", RUNNERS)
def test_out_may_be_the_residual_and_may_be_a_view(runner: str, mode: str) -> None:
    x, weight, stream = normal(9, 24), normal(20, 24, seed=1), normal(9, 20, seed=2)
    wide = torch.full((9, 25), 7.0)
    with running(runner) as backend:
        packed = pack_weight([weight], mode=mode)
        expected = linear(x, packed, residual=stream, backend=backend)
        assert linear(x, packed, out=wide[:, 2:22], backend=backend).data_ptr() == (
            wide[:, 2:].data_ptr()
        )
        result = linear(x, packed, residual=stream, out=stream, backend=backend)
    assert result is stream
    assert torch.equal(stream, expected)
    assert (wide[:, :2] == 7).all()
    assert (wide[:, 22:] == 7).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runner", RUNNERS)
def test_strided_input(runner: str, mode: str) -> None:
    x, weight = normal(12, 30), normal(10, 30, seed=1)
    wide = normal(12, 64, seed=3)
    wide[:, 5:35] = x
    with running(runner) as backend:
        expected = linear(x, pack_weight([weight], mode=mode), backend=backend)
        across = pack_weight([weight.T.contiguous().T], mode=mode)
        # torch's own product takes another path, with other roundings, for some strides.
        tolerance = (
            {"rtol": 1e-6, "atol": 1e-5} if runner == "reference" else {"rtol": 0, "atol": 0}
        )
        for view in (wide[:, 5:35], x.T.contiguous().T):
            torch.testing.assert_close(linear(view, across, backend=backend), expected, **tolerance)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runner", CPU_RUNNERS)
@pytest.mark.parametrize(("n", "k", "pair"), [(70, 200, False), (96, 1100, True), (576, 64, False)])
def test_bits_depend_on_the_row_alone(runner: str, mode: str, n: int, k: int, pair: bool) -> None:
    """Any number of rows, any place among them, any number of threads."""
    weights = [normal(n // 2, k), normal(n // 2, k, seed=1)] if pair else [normal(n, k)]
    x, bias = normal(300, k, seed=2), normal(n, seed=3)
    activation = "silu" if pair else None
    with running(runner) as backend:
        packed = pack_weight(weights, mode=mode, pair=pair)

        def run(rows: torch.Tensor) -> torch.Tensor:
            return linear(rows, packed, bias=bias, activation=activation, backend=backend)

        whole = run(x)
        for threads in (1, 2, 3):
            with torch_threads(threads):
                assert torch.equal(run(x), whole)
        with torch_threads(2):
            for count in range(1, 71):
                start = (37 * count) % (300 - count)
                assert torch.equal(run(x[start : start + count]), whole[start : start + count])
            turned = run(x.flip(0))
        assert torch.equal(turned.flip(0), whole)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runner", CPU_RUNNERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_shapes(runner: str, mode: str, data: st.DataObject) -> None:
    draw = data.draw
    k, rows = draw(st.integers(1, 300)), draw(st.integers(0, 80))
    pair = draw(st.booleans())
    sizes = draw(st.lists(st.integers(1, 90), min_size=1, max_size=4))
    sizes = [sizes[0]] * 2 if pair else sizes
    weights = [normal(n, k, seed=i) for i, n in enumerate(sizes)]
    x = normal(rows, k, seed=9)
    activation = draw(st.sampled_from(ACTIVATIONS))
    with running(runner) as backend:
        packed = pack_weight(weights, mode=mode, pair=pair)
        for unpacked, weight in zip(packed.unpack(), weights, strict=True):
            assert torch.equal(unpacked, as_stored(weight, mode))
        got = linear(x, packed, activation=activation, backend=backend)
        truth = linear(x.double(), packed, activation=activation, backend="reference")
    assert got.shape == (rows, packed.out_features)
    if rows:
        torch.testing.assert_close(got.double(), truth, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(("n", "k"), [(40, 96), (33, 51), (7, 2500)])
def test_bf16_rounds_weights_and_rows_to_the_nearest(runner: str, n: int, k: int) -> None:
    """Exactly: with values of few bits sums are exact, and one rounding too many would show."""
    generator = torch.Generator().manual_seed(3)

    def between(*shape: int) -> torch.Tensor:
        # Nine bits where bfloat16 has eight: every other value is a tie, which goes to even.
        return torch.randint(256, 512, shape, generator=generator).float()

    x, weight = between(21, k), between(n, k) * 2.0**-9
    # Random signs keep sums below 2^24 times their grain in whatever order they are added.
    x *= torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1
    with running(runner) as backend:
        got = linear(x, pack_weight([weight], mode="bf16"), backend=backend)
    assert not torch.equal(x.bfloat16().float(), x)
    assert torch.equal(got.double(), plain(x.bfloat16().double(), [weight.bfloat16()]))


@pytest.mark.parametrize("runner", CPU_RUNNERS)
def test_bf16_takes_half_the_memory_and_rounds_what_is_special(runner: str) -> None:
    weight = normal(37, 21)
    weight.view(-1)[:5] = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 3.4e38])
    exact = normal(5, 21, seed=1).bfloat16()
    with running(runner):
        packed = pack_weight([weight, exact], mode="bf16")
        back = packed.unpack()
        whole = pack_weight([weight, exact])
    torch.testing.assert_close(back[0], weight.bfloat16().float(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(back[1], exact.float())
    same_panels = whole.layout != "panel48"  # of AVX-512, whose panels of bfloat16 are AMX's
    assert packed.layout == (f"bf16_{whole.layout}" if same_panels else "bf16_panel32")
    assert packed.data.data_ptr() % 64 == 0
    if same_panels:
        assert packed.nbytes <= whole.nbytes // 2 + 2 * 37 * 2
    width = int(packed.layout.removeprefix("bf16_panel"))
    columns, inputs = -(-42 // width) * width, 32 if width == 32 else 22
    assert packed.nbytes == 2 * columns * inputs


@pytest.mark.parametrize("runner", CPU_RUNNERS)
def test_packing_is_exact_and_aligned(runner: str) -> None:
    weight = normal(37, 21)
    weight.view(-1)[:4] = torch.tensor([torch.inf, -torch.inf, 1e-45, -0.0])
    others = [normal(5, 21, seed=1).bfloat16(), normal(2, 21, seed=2).half()]
    with running(runner):
        packed = pack_weight([weight, *others])
        back = packed.unpack()
    for got, given_ in zip(back, [weight, *others], strict=True):
        assert torch.equal(got.view(torch.int32), given_.float().view(torch.int32))
    assert packed.splits == (37, 5, 2)
    assert (packed.n, packed.k, packed.out_features) == (44, 21, 44)
    assert packed.data.data_ptr() % 64 == 0
    assert packed.nbytes == packed.data.nbytes >= 44 * 21 * 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runner", RUNNERS)
def test_infinities_and_nans_stay_in_their_row_and_column(runner: str, mode: str) -> None:
    """A non-finite input makes its outputs non-finite, and no others."""
    x, weight = normal(20, 40), normal(30, 40, seed=1)
    x[3, 5], x[8, 39], weight[17, 2] = torch.nan, torch.inf, -torch.inf
    with running(runner) as backend:
        got = linear(x, pack_weight([weight], mode=mode), backend=backend)
    finite = torch.ones(20, 30, dtype=torch.bool)
    finite[3], finite[8], finite[:, 17] = False, False, False
    assert torch.equal(got.isfinite(), finite)
    assert got[3].isnan().all()


@pytest.mark.parametrize("mode", MODES)
def test_empty_sizes(mode: str) -> None:
    assert linear(normal(0, 8), pack_weight([normal(4, 8)], mode=mode)).shape == (0, 4)
    assert linear(normal(3, 8), pack_weight([normal(0, 8)], mode=mode)).shape == (3, 0)
    no_inputs = pack_weight([normal(4, 0)], mode=mode)
    assert torch.equal(linear(normal(3, 0), no_inputs), torch.zeros(3, 4))


def test_a_gradient_flows_to_the_input() -> None:
    x, weight = normal(3, 8).requires_grad_(), normal(5, 8, seed=1)
    packed = pack_weight([weight])
    linear(x, packed).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 8))
    assert "uses reference" in explain("linear", x)


@pytest.mark.parametrize("mode", MODES)
def test_another_layout_is_refused(mode: str) -> None:
    """Weights are packed for an instruction set; a narrower one says so instead of guessing."""
    with running("cpu-portable"):
        packed = pack_weight([normal(4, 8)], mode=mode)
    if "avx2" not in _ext.core().available_isas():
        pytest.skip("this CPU or build has one layout")
    with (
        running("cpu-avx2"),
        pytest.raises(ValueError, match=r"panels of 8 .* avx2 reads panels of 16; pack them again"),
    ):
        linear(normal(2, 8), packed)


@pytest.mark.parametrize("mode", MODES)
def test_without_the_extension(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ext, "load", lambda name: (None, f"fastsi.{name} is not importable: x"))
    weights = [as_stored(normal(n, 8, seed=n), mode) for n in (4, 3)]
    packed = pack_weight(weights, mode=mode)
    assert packed.layout == "rows"
    assert all(torch.equal(a, b) for a, b in zip(packed.unpack(), weights, strict=True))
    x = as_stored(normal(2, 8, seed=2), mode)
    torch.testing.assert_close(linear(x, packed), plain(x, weights))


def test_bad_arguments_are_refused() -> None:
    weight, x = normal(6, 8), normal(3, 8)
    packed: PackedWeight = pack_weight([weight])
    for arguments, message in [
        ({"x": x[0]}, "x: shape"),
        ({"x": x[:, :7]}, r"x: shape is \[3, 7\], must be \[\*, 8\]"),
        ({"x": x.int()}, "x: dtype is torch.int32"),
        ({"bias": normal(5)}, "bias: shape"),
        ({"bias": normal(6).double()}, "bias: dtype is torch.float64"),
        ({"residual": normal(2, 6)}, "residual: shape"),
        ({"out": normal(3, 5)}, "out: shape"),
        ({"out": normal(6, 3).T}, "out: strides"),
        ({"row_index": torch.zeros(2)}, "row_index: dtype"),
    ]:
        with pytest.raises(ValueError, match=message):
            linear(**({"x": x, "packed": packed} | arguments))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown activation 'silo'; did you mean 'silu'"):
        linear(x, packed, activation="silo")
    with pytest.raises(ConfigError, match="unknown mode 'fp23'; did you mean 'fp32'"):
        pack_weight([weight], mode="fp23")
    for weights, pair, message in [
        ([], False, "is empty"),
        ([weight[0]], False, r"weights\[0\]: shape"),
        ([weight, normal(6, 9)], False, r"weights\[1\]: shape"),
        ([weight.double()], False, "must be one of float32"),
        ([weight], True, "a pair needs two of one shape"),
        ([weight, normal(5, 8)], True, "a pair needs two of one shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            pack_weight(weights, pair=pair)


def test_broken_weights_are_refused_by_the_core() -> None:
    core, x, out = _ext.core(), normal(2, 8), torch.zeros(2, 4)
    shape = core.linear_packed_shape(4, 8, False, True, 2)
    data = torch.zeros(shape, dtype=torch.bfloat16)
    for broken, message in [
        (data.half(), "weights: is float16, must be float32 or bfloat16"),
        (data[:, :-1].contiguous(), "weights: dimension 1"),
        (data[..., :-2].contiguous(), "pack them again"),
        (data[0], "weights: has 2 dimensions"),
    ]:
        handle = core.LinearWeights(view(broken), 4, 8, False, 2)
        with pytest.raises(ValueError, match=message):
            core.linear(view(x), handle, None, None, None, 0, view(out), 1)
    handle = core.LinearWeights(view(data), 4, 8, False, 2)
    with pytest.raises(ValueError, match="weight: is float32, must be bfloat16"):
        core.linear_pack(view(normal(4, 8)), handle, 0, 1)


@pytest.mark.parametrize("runner", CPU_RUNNERS)
@pytest.mark.parametrize("rows", [1, 16, 40, 100])
@pytest.mark.parametrize(("n", "k"), [(70, 100), (33, 1600)])
@pytest.mark.parametrize(("kept", "size"), [(-65536, 2), (-256, 3), (-1, 4)])
def test_weights_whose_last_bytes_are_zero(
    runner: str, kept: int, size: int, n: int, k: int, rows: int
) -> None:
    """As checkpoints in bfloat16, float16 or 4 bits hold them: AMX does not store those bytes."""
    weight = (normal(n, k).view(torch.int32) & kept).view(torch.float32)
    weight.view(-1)[:4] = torch.tensor([0.0, -0.0, 2.0**-100, -(2.0**60)])
    # Plain torch on many rows: for few it has other kernels, and on few sums it is exact by luck.
    x = normal(200, k, seed=1)
    x[:, 3] *= 2.0**-60
    expected = plain(x, [weight])
    assert _ext.core().linear_bytes(view(weight), 1) == size
    with running(runner) as backend:
        packed = pack_weight([weight[: n // 2], weight[n // 2 :]])
        back = torch.cat(packed.unpack())
        few = linear(x[:rows], packed, backend=backend)
    assert torch.equal(back.view(torch.int32), weight.view(torch.int32))
    stored = size if runner == "cpu-amx" else 4
    grain = 32 if runner == "cpu-amx" else 1
    width = int(packed.layout.removeprefix("panel"))
    assert packed.nbytes == -(-n // width) * width * -(-k // grain) * grain * stored
    got = torch.cat([few, expected[rows:]])
    assert_as_good_as_torch(got, expected, plain(x.double(), [weight]))


@pytest.mark.parametrize("runner", CPU_RUNNERS)
def test_no_byte_is_left_out_that_one_weight_needs(runner: str) -> None:
    """Of several weights side by side the longest decides."""
    short = normal(20, 40).bfloat16()
    longer = (normal(5, 40, seed=1).view(torch.int32) & -256).view(torch.float32)
    longest = torch.zeros(3, 40)
    longest[2, 39] = 1 + 2.0**-23
    for weights in ([short, longer], [longer, short, longest], [longest, short]):
        with running(runner):
            back = pack_weight(weights).unpack()
        for got, given_ in zip(back, weights, strict=True):
            assert torch.equal(got, given_.float())
