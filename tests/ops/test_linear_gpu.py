"""`linear` on a GPU: Triton's products against float64, fixed bits; cuBLAS's ways to put it.

Without a GPU Triton runs in its interpreter, and what surrounds cuBLAS on torch's own products.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from fastsi.errors import ConfigError
from fastsi.ops import PackedWeight, explain, linear, pack_weight
from fastsi.ops.linear import _cublas, packed
from tests.ops.support import assert_as_good_as_torch, device_of, running
from tests.ops.test_linear import normal
from tests.support import interpreter
from tests.support.devices import call_on

triton_backend = pytest.importorskip("fastsi.ops.linear._triton", reason="Triton is not installed")
GPU = device_of("triton")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ACTIVATIONS = [None, "silu", "gelu", "gelu_tanh"]


def truth_of(x: torch.Tensor, weights: list[torch.Tensor], **more: object) -> torch.Tensor:
    doubles = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in more.items()}
    pair = len(weights) == 2
    rows = pack_weight([w.double() for w in weights], pair=pair, keep=True)
    wide = torch.cat([w.double() for w in weights])
    y = x.double() @ wide.T
    if doubles.get("bias") is not None:
        y = y + doubles["bias"]
    first, second = y.chunk(2, 1) if rows.pair else (y, None)
    activation = doubles.get("activation")
    if activation is not None:
        act = {
            "silu": torch.nn.functional.silu,
            "gelu": torch.nn.functional.gelu,
            "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
        }[str(activation)]
        first = act(first)
    y = first if second is None else first * second
    residual = doubles.get("residual")
    return y if residual is None else y + residual


def run(backend: str, x: torch.Tensor, weights: list[torch.Tensor], **more: object) -> torch.Tensor:
    """The op on weights kept as they are."""

    def call(x: torch.Tensor, weights: tuple[torch.Tensor, ...], **more: object) -> torch.Tensor:
        made = pack_weight(list(weights), pair=len(weights) == 2, keep=True)
        if backend == "cuda" and not x.is_cuda:  # cuBLAS's part is torch's own on a CPU
            names = ("bias", "residual", "activation", "row_index", "out")
            return _cublas.linear(x, made, *(more.get(name) for name in names))  # type: ignore[arg-type]
        return linear(x, made, backend=backend, **more)  # type: ignore[arg-type]

    with running("triton"):
        result: torch.Tensor = call_on(GPU, call, x, tuple(weights), **more)
    return result


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "n", "k"),
    [(1, 1, 1), (1, 128, 64), (127, 127, 63), (128, 129, 65), (129, 64, 128), (3, 200, 1500)],
)
def test_precision(backend: str, dtype: torch.dtype, rows: int, n: int, k: int) -> None:
    x, weight = normal(max(rows, 40), k).to(dtype), normal(n, k, seed=1).to(dtype)
    plain = torch.nn.functional.linear(x, weight)
    got = plain.clone()
    got[:rows] = run(backend, x[:rows], [weight])
    assert_as_good_as_torch(got, plain, x.double() @ weight.double().T)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_follows_the_product(
    backend: str, dtype: torch.dtype, pair: bool, activation: str | None
) -> None:
    n, k = 70, 90
    weights = [normal(n, k, seed=s, spread=0.2).to(dtype) for s in (1, 2)[: 1 + pair]]
    x, residual = normal(21, k, seed=3).to(dtype), normal(21, n, seed=4).to(dtype)
    bias = normal(n * (1 + pair), seed=5).to(dtype)
    for chosen in (
        {},
        {"bias": bias},
        {"residual": residual},
        {"bias": bias, "residual": residual},
    ):
        truth = truth_of(x, weights, activation=activation, **chosen)
        plain = linear(
            x,
            pack_weight(weights, pair=pair, keep=True),
            activation=activation,
            backend="reference",
            **chosen,
        )
        got = run(backend, x, weights, activation=activation, **chosen)
        assert_as_good_as_torch(got, plain, truth)
        given = residual.clone()
        kept = chosen | {"out": given} | ({"residual": given} if "residual" in chosen else {})
        assert run(backend, x, weights, activation=activation, **kept) is given
        assert torch.equal(given, got), "out may be the residual"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pair", [False, True])
def test_bits_depend_on_the_row_alone(dtype: torch.dtype, pair: bool) -> None:
    """Any number of rows around it, any place among them, parts of K apart or in one go."""
    tile = triton_backend._TILE[dtype]
    total, n, k = tile.rows + 44, tile.columns + 2, 6 * tile.depth + 20
    weights = [normal(n, k, seed=s, spread=0.05).to(dtype) for s in (1, 2)[: 1 + pair]]
    x, bias = normal(total, k, seed=3).to(dtype), normal(n * (1 + pair), seed=4).to(dtype)
    residual = normal(total, n, seed=5).to(dtype)

    def product(rows: torch.Tensor, apart: bool | None = None) -> torch.Tensor:
        def call(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor | None, *others: object):  # type: ignore[no-untyped-def]
            out = x.new_empty(len(x), n)
            tail = ("silu" if pair else None, None, out)
            return triton_backend.product(x, gate, up, *others, *tail, num_parts=3, apart=apart)

        up = weights[1] if pair else None
        found: torch.Tensor = call_on(GPU, call, x[rows], weights[0], up, bias, residual[rows])
        return found

    everything = torch.arange(total)
    with running("triton"), interpreter.products_in_order():
        whole = product(everything)
        assert torch.equal(product(everything, apart=False), whole)
        assert torch.equal(product(everything, apart=True), whole)
        for number, (begin, end) in enumerate([(0, 1), (tile.rows, total), (5, tile.rows + 9)]):
            part = product(everything[begin:end], bool(number % 2))
            assert torch.equal(part, whole[begin:end])
        turned = everything.flip(0)
        assert torch.equal(product(turned), whole[turned])


def test_the_cut_of_k_follows_from_the_weights_alone() -> None:
    tile = triton_backend._NARROW
    assert triton_backend.splits(4096, 4096, tile) == 2
    assert triton_backend.splits(28672, 4096, tile) == 1
    assert triton_backend.splits(1536, 8960, tile) == 6
    assert triton_backend.splits(1536, 1536, tile) == 3
    assert triton_backend.splits(576, 576, tile) == 1
    assert triton_backend.splits(64, 100, tile) == 1


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("apart", [False, True])
def test_infinities_and_nans_stay_in_their_row_and_column(apart: bool) -> None:
    x, weight = normal(70, 40), normal(30, 40, seed=1)
    x[3, 5], x[8, 39], weight[17, 2] = torch.nan, torch.inf, -torch.inf

    def call(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        nothing = (None,) * 5
        out = x.new_empty(70, 30)
        made: torch.Tensor = triton_backend.product(
            x, weight, *nothing, out, num_parts=2, apart=apart
        )
        return made

    with running("triton"):
        got = call_on(GPU, call, x, weight)
    finite = torch.ones(70, 30, dtype=torch.bool)
    finite[3], finite[8], finite[:, 17] = False, False, False
    assert torch.equal(got.isfinite(), finite)
    assert got[3].isnan().all()


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_rows_are_gathered_and_strides_kept(backend: str) -> None:
    wide, weight = normal(40, 100), normal(33, 60, seed=1)
    x, index = wide[:, 20:80], torch.tensor([39, 0, 7, 7])
    target = torch.full((4, 50), 7.0)
    got = run(backend, x, [weight], row_index=index, out=target[:, 9:42])
    assert torch.equal(target[:, 9:42], got)
    assert torch.equal(got, run(backend, x[index].contiguous(), [weight]))
    assert (target[:, :9] == 7).all()
    assert (target[:, 42:] == 7).all()
    across = weight.T.contiguous().T  # GPT-2's layers hold their weights so
    torch.testing.assert_close(run(backend, x, [across]), run(backend, x, [weight]))
    columns = normal(60, 40, seed=2).T
    torch.testing.assert_close(
        run(backend, columns, [weight]), run(backend, columns.contiguous(), [weight])
    )


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("joined", [True, False])
def test_several_weights_side_by_side(
    backend: str, joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_JOIN_BYTES", 1 << 26 if joined else 0)
    sizes, x = (30, 7, 90), normal(9, 50)
    weights = [normal(n, 50, seed=n) for n in sizes]
    bias, residual = normal(127, seed=1), normal(9, 127, seed=2)
    made = pack_weight(weights, keep=True)
    assert len(made.weights) == (1 if joined else 3)
    assert made.nbytes == (127 * 50 * 4 if joined else 0)
    assert all(torch.equal(a, b) for a, b in zip(made.unpack(), weights, strict=True))

    def call(x: torch.Tensor, weights: tuple[torch.Tensor, ...], *others: torch.Tensor | None):  # type: ignore[no-untyped-def]
        module = _cublas if backend == "cuda" else triton_backend
        made = pack_weight(list(weights), keep=True)
        return module.linear(x, made, *others, None, None, None)

    for own, old in itertools.product((None, bias), (None, residual)):
        with running("triton"):
            got = call_on(GPU, call, x, tuple(weights), own, old)
        expected = torch.nn.functional.linear(x, torch.cat(weights), own)
        torch.testing.assert_close(got, expected if old is None else expected + old)
    twins = [normal(30, 50, seed=s) for s in (1, 2)]
    gate, up = (torch.nn.functional.linear(x, w) for w in twins)
    got = run(backend, x, twins, activation="silu")
    torch.testing.assert_close(got, torch.nn.functional.silu(gate) * up, rtol=1e-4, atol=1e-4)


def test_one_weight_is_kept_and_not_copied() -> None:
    weight = torch.nn.Parameter(normal(8, 6))
    made = pack_weight([weight], keep=True)
    assert made.weights[0].data_ptr() == weight.data_ptr()
    assert not made.weights[0].requires_grad
    assert (made.nbytes, made.layout) == (0, "own")
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(made.weights[0], weight)
    x = normal(3, 6, seed=1)
    torch.testing.assert_close(linear(x, made), x @ weight.T)  # on a CPU the reference


def test_what_cannot_be_is_refused() -> None:
    weight, x = normal(6, 8), normal(3, 8)
    with pytest.raises(ConfigError, match="mode='int8': runs on a CPU"):
        pack_weight([weight], mode="int8", keep=True)
    for weights, message in [
        ([weight, weight.bfloat16()], r"weights\[1\]: dtype"),
        ([weight, weight[:, :7]], r"weights\[1\]: shape"),
        ([weight.int()], r"weights\[0\]: dtype is torch.int32, must be a floating type"),
    ]:
        with pytest.raises(ValueError, match=message):
            pack_weight(weights, keep=True)
    with pytest.raises(ValueError, match="a pair needs two of one shape"):
        pack_weight([weight], pair=True, keep=True)
    with pytest.raises(ValueError, match=r"x: dtype is torch.float32, the weights are .*bfloat16"):
        _cublas.linear(x, pack_weight([weight.bfloat16()], keep=True), None, None, None, None, None)
    made: PackedWeight = pack_weight([weight])
    with running("triton"), pytest.raises(ValueError, match="pack with keep=True"):
        linear(x.to(GPU), made, backend="triton")
    assert "runs on cuda" in explain("linear", x)


def test_nothing_to_do() -> None:
    with running("triton"):
        for rows, n in ((0, 5), (4, 0)):
            assert run("triton", normal(rows, 8), [normal(n, 8)]).shape == (rows, n)
