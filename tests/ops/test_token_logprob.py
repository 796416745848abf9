"""token_logprob: values and gradients against float64, chunk edges, and memory."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from fastsi.ops import token_logprob
from tests.ops.support import assert_as_good_as_torch, device_of, runners, running

# It has no kernels of its own on the CPU, so one instruction set does.
RUNNERS = sorted({name.partition("-")[0] for name in runners("token_logprob")})
CHUNKED = ["cpu", "triton"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"softcap": 5.0},
    {"temperature": 1.3, "softcap": 20.0},
]


def problem(rows: int, vocab: int, dtype: torch.dtype, seed: int = 0) -> dict[str, torch.Tensor]:
    """States, head, bias and targets whose logits spread like a model's."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 48, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, 48, generator=generator, dtype=torch.float64) / 3
    bias = torch.randn(vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    return {
        "hidden": hidden.to(dtype),
        "weight": weight.to(dtype),
        "bias": bias.to(dtype),
        "targets": targets,
    }


def results(
    runner: str, given: dict[str, torch.Tensor], dtype: torch.dtype, **options: Any
) -> dict[str, torch.Tensor]:
    """Both results and all gradients, for seeded gradients of the results; on the CPU."""
    device = device_of(runner)
    leaves = {
        name: given[name].detach().to(device, dtype).requires_grad_()
        for name in ("hidden", "weight", "bias")
        if name in given
    }
    backend = runner
    with running(backend):
        logprob, lse = token_logprob(
            **leaves, targets=given["targets"].to(device), backend=backend, **options
        )
    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(2, len(logprob), generator=generator, dtype=torch.float64)
    weights = weights.to(device, logprob.dtype)
    ((logprob * weights[0]).sum() + (lse * weights[1]).sum()).backward()
    found = {"logprob": logprob.detach(), "lse": lse.detach()}
    found |= {f"grad_{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {name: tensor.cpu() for name, tensor in found.items()}


KEPT = {"none kept": 0, "some kept": 9 * 300 * 4}
"""Bytes of chunks for the backward pass: of 9 rows x 256 tokens, one in float32, two in 16 bits."""


@pytest.fixture(params=KEPT.values(), ids=KEPT)
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 256 tokens, so that small vocabularies have several."""
    for name in ("_cpu", "_triton"):
        module = importlib.import_module(f"fastsi.ops.token_logprob.{name}")
        monkeypatch.setattr(module._Steps, "chunk_bytes", 1)
        monkeypatch.setattr(module._Steps, "kept_bytes", request.param)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients(runner: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    given = problem(9, 700, dtype)
    got = results(runner, given, dtype, **options)
    plain = results("reference", given, dtype, **options)
    truth = results("reference", given, torch.float64, **options)
    assert got.keys() == plain.keys()
    for name in got:
        factor = 3.0 if name.startswith("grad") else 2.0
        assert_as_good_as_torch(got[name], plain[name], truth[name], factor)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("runner", CHUNKED)
@pytest.mark.parametrize("vocab", [1, 255, 256, 257, 513])
@pytest.mark.parametrize("rows", [1, 5])
def test_chunk_edges(runner: str, vocab: int, rows: int) -> None:
    given = problem(rows, vocab, torch.float32, seed=vocab)
    given["targets"][0] = vocab - 1
    del given["bias"]
    got = results(runner, given, torch.float32)
    plain = results("reference", given, torch.float32)
    truth = results("reference", given, torch.float64)
    for name in got:
        assert_as_good_as_torch(got[name], plain[name], truth[name], 3.0)


@pytest.mark.parametrize("runner", CHUNKED)
def test_long_rows_take_several_steps_of_a_kernel(runner: str) -> None:
    given = problem(2, 2049, torch.float32)
    got = results(runner, given, torch.float32)
    plain = results("reference", given, torch.float32)
    truth = results("reference", given, torch.float64)
    for name in got:
        assert_as_good_as_torch(got[name], plain[name], truth[name], 3.0)


@pytest.mark.parametrize("runner", RUNNERS)
def test_ignored_rows_have_no_logprob_and_no_gradient(runner: str) -> None:
    given = problem(6, 300, torch.float32)
    given["targets"][[1, 4]] = -100
    device = device_of(runner)
    hidden = given["hidden"].to(device).requires_grad_()
    with running(runner):
        logprob, _ = token_logprob(
            hidden, given["weight"].to(device), given["targets"].to(device), backend=runner
        )
    logprob.sum().backward()
    assert hidden.grad is not None
    assert (logprob[[1, 4]] == 0).all()
    assert (logprob[[0, 2, 3, 5]] < 0).all()
    assert (hidden.grad[[1, 4]] == 0).all()
    assert (hidden.grad[[0, 2, 3, 5]] != 0).any(dim=1).all()


@pytest.mark.parametrize("runner", RUNNERS)
def test_banned_tokens(runner: str) -> None:
    """A bias of -inf gives a token no weight; whole chunks of them are no NaN."""
    given = problem(3, 600, torch.float32)
    given["bias"][:520] = -torch.inf
    given["targets"] = torch.tensor([599, 3, 540])
    got = results(runner, given, torch.float32)
    z = given["hidden"].double() @ given["weight"].double().t() + given["bias"].double()
    torch.testing.assert_close(got["lse"], z.logsumexp(1).float())
    assert got["logprob"][1] == -torch.inf
    assert got["logprob"][[0, 2]].isfinite().all()


@pytest.mark.parametrize("runner", CHUNKED)
def test_only_the_gradients_asked_for(runner: str) -> None:
    given = problem(4, 300, torch.float32)
    device = device_of(runner)
    hidden, weight = given["hidden"].to(device), given["weight"].to(device).requires_grad_()
    logprob, _ = token_logprob(hidden, weight, given["targets"].to(device), backend=runner)
    logprob.sum().backward()
    assert hidden.grad is None
    assert weight.grad is not None
    with torch.no_grad():
        again, _ = token_logprob(hidden, weight, given["targets"].to(device), backend=runner)
    assert torch.equal(again, logprob.detach())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("runner", CHUNKED)
def test_a_second_backward_pass_gives_the_same_gradients(runner: str) -> None:
    """The first one has used up the chunks that were kept."""
    given = problem(9, 700, torch.float32)
    device = device_of(runner)
    leaves = [given[name].to(device).requires_grad_() for name in ("hidden", "weight", "bias")]
    with running(runner):
        logprob, _ = token_logprob(
            *leaves[:2], given["targets"].to(device), bias=leaves[2], backend=runner
        )
        first = torch.autograd.grad(logprob.sum(), leaves, retain_graph=True)
        again = torch.autograd.grad(logprob.sum(), leaves)
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("runner", CHUNKED)
def test_kept_chunks_have_a_bound(runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more bytes than allowed wait for a backward pass, and none where there will be none."""
    module = importlib.import_module(f"fastsi.ops.token_logprob._{runner}")
    given = problem(9, 1000, torch.float32)
    device = device_of(runner)
    chunk = 9 * 256 * 4
    monkeypatch.setattr(module._Steps, "chunk_bytes", chunk)
    for allowed, kept in [(0, 0), (chunk - 1, 0), (chunk, 1), (2 * chunk, 2), (99 * chunk, 4)]:
        monkeypatch.setattr(module._Steps, "kept_bytes", allowed)
        weight = given["weight"].to(device).requires_grad_()
        inputs = given["hidden"].to(device), weight, given["targets"].to(device)
        with running(runner):
            node = token_logprob(*inputs, backend=runner)[1].grad_fn
            with torch.no_grad():
                assert token_logprob(*inputs, backend=runner)[1].grad_fn is None
        assert node is not None
        assert len(node.kept) == kept  # type: ignore[attr-defined]


@pytest.mark.parametrize("runner", RUNNERS)
def test_no_rows(runner: str) -> None:
    given = problem(0, 300, torch.float32)
    got = results(runner, given, torch.float32)
    assert got["logprob"].shape == got["lse"].shape == (0,)
    assert (got["grad_weight"] == 0).all()


def test_no_tensor_is_as_large_as_the_logits() -> None:
    """Every tensor made on the way, seen by a mode that torch calls for each operation."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                largest = max(largest, made.numel())
            return made

    rows, vocab = 200, 30_000
    hidden = torch.randn(rows, 16, requires_grad=True)
    weight = torch.randn(vocab, 16, requires_grad=True)
    with Watch():
        token_logprob(hidden, weight, torch.zeros(rows, dtype=torch.int64))[0].sum().backward()
    assert weight.numel() <= largest < rows * vocab


def test_bad_arguments_are_refused() -> None:
    given = problem(2, 10, torch.float32)
    hidden, weight, targets = given["hidden"], given["weight"], given["targets"]
    for arguments, options, message in [
        ((hidden[0], weight, targets), {}, "hidden: shape"),
        ((hidden, weight[:, 1:], targets), {}, "weight: shape"),
        ((hidden, weight[:0], targets), {}, "vocabulary is empty"),
        ((hidden, weight.double(), targets), {}, "weight: dtype"),
        ((hidden, weight, targets[:1]), {}, "targets: shape"),
        ((hidden, weight, targets.int()), {}, "targets: dtype"),
        ((hidden, weight, torch.tensor([0, 10])), {}, r"targets\[1\]: is 10"),
        ((hidden, weight, torch.tensor([-1, 0])), {}, r"targets\[0\]: is -1"),
        ((hidden, weight, targets), {"temperature": 0.0}, "temperature: is 0.0"),
        ((hidden, weight, targets), {"softcap": -1.0}, "softcap: is -1.0"),
        ((hidden, weight, targets), {"bias": weight[:, 0].double()}, "bias: dtype"),
    ]:
        with pytest.raises(ValueError, match=message):
            token_logprob(*arguments, **options)
