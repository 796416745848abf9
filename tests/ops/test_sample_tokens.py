"""sample_tokens: truncation, penalties and log-probs against literal definitions."""

from __future__ import annotations

import math
from dataclasses import fields as fields_of
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.errors import NumericalError
from fastsi.ops import LogitAdjust, SampledTokens, SampleParams, sample_tokens
from fastsi.ops.sample_tokens.stream import uniform
from tests.ops.support import (
    assert_as_good_as_torch,
    device_of,
    runners,
    running,
    torch_threads,
)

RUNNERS = runners("sample_tokens")
CPU = [name for name in RUNNERS if name.startswith("cpu")]
FIELDS = ("token", "logprob", "logprob_full", "kept_mass", "logprob_raw")

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.3},
    {"temperature": 50.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10_000},
    {"top_p": 0.01},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8, "min_p": 0.01, "temperature": 1.7},
    {"top_k": 3, "top_p": 0.9999},
]


def random_logits(rows: int, vocab: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=generator, dtype=torch.float64) * spread


def moved(data: Any, device: torch.device) -> Any:
    """A dataclass of tensors, or None, on a device."""
    if data is None:
        return None
    given = {f.name: getattr(data, f.name) for f in fields_of(data)}
    return type(data)(**{name: None if x is None else x.to(device) for name, x in given.items()})


def draw_on(
    runner: str,
    logits: torch.Tensor,
    params: SampleParams,
    row_index: torch.Tensor | None = None,
    adjust: LogitAdjust | None = None,
) -> SampledTokens:
    """`sample_tokens` by a runner, on its device; the result comes back to the CPU."""
    device = device_of(runner)
    index = None if row_index is None else row_index.to(device)
    with running(runner) as backend:
        drawn = sample_tokens(
            logits.to(device),
            moved(params, device),
            row_index=index,
            adjust=moved(adjust, device),
            raw=True,
            backend=backend,
        )
    result: SampledTokens = moved(drawn, torch.device("cpu"))
    return result


def kept_tokens(z: list[float], t: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """Truncation of one row, said again in plain Python with exact sums."""
    top = max(z)
    weight = [math.exp((x - top) / t) for x in z]
    kept = [i for i in range(len(z)) if weight[i] >= min_p]
    if 0 < top_k < len(kept):
        edge = sorted((z[i] for i in kept), reverse=True)[top_k - 1]
        kept = [i for i in kept if z[i] >= edge]
    if top_p < 1:
        need = top_p * math.fsum(weight[i] for i in kept)
        ordered = sorted(kept, key=lambda i: -z[i])
        count = 1
        while math.fsum(weight[i] for i in ordered[:count]) < need:
            count += 1
        kept = [i for i in kept if z[i] >= z[ordered[count - 1]]]
    return set(kept)


# 64 and 65 are the edge of the C++ blocks; no block of the Triton kernels ends there.
RUNNERS_AND_VOCABS = [
    (runner, vocab)
    for runner in RUNNERS
    for vocab in (1, 64, 65, 300)
    if runner != "triton" or vocab not in (64, 65)
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize(("runner", "vocab"), RUNNERS_AND_VOCABS)
def test_against_plain_python(runner: str, options: dict[str, Any], vocab: int) -> None:
    rows = 3 if runner == "triton" else 6  # the interpreter is slow
    z = random_logits(rows, vocab, seed=vocab)
    z[:, ::3] = z[:, ::3].round()  # ties
    params = SampleParams.build(key=range(rows), position=5, **options)
    drawn = draw_on(runner, z, params)
    draw = uniform(params.key, params.position)
    for row in range(rows):
        values = z[row].tolist()
        token = int(drawn.token[row])
        t = float(params.temperature[row])
        top = max(values)
        weight = [math.exp((x - top) / (t or 1.0)) for x in values]
        kept = set(range(vocab))
        if t > 0:
            kept = kept_tokens(
                values,
                t,
                options.get("top_k", 0),
                *(float(getattr(params, n)[row]) for n in ("top_p", "min_p")),
            )
        total, full = math.fsum(weight[i] for i in kept), math.fsum(weight)
        if t == 0:
            assert token == values.index(top)
        else:
            assert token in kept
            before = math.fsum(weight[i] for i in kept if i < token)
            assert before <= float(draw[row]) * total * (1 + 1e-14)
            assert float(draw[row]) * total < (before + weight[token]) * (1 + 1e-14)
        assert float(drawn.logprob[row]) == pytest.approx(
            math.log(weight[token] / total), abs=1e-12
        )
        assert float(drawn.logprob_full[row]) == pytest.approx(
            math.log(weight[token] / full), abs=1e-12
        )
        assert float(drawn.kept_mass[row]) == pytest.approx(total / full, abs=1e-12)
        raw = values[token] - top - math.log(math.fsum(math.exp(x - top) for x in values))
        assert float(drawn.logprob_raw[row]) == pytest.approx(raw, abs=1e-12)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"top_p": 0.9, "top_k": 50}, {"min_p": 0.02}], ids=str
)
def test_precision(runner: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    """Log-probs are as exact as torch's; a token differs only if its uniform lies on an edge."""
    rows, vocab = 6 if runner == "triton" else 100, 3000  # the interpreter is slow
    z = random_logits(rows, vocab, seed=1).to(dtype)
    params = SampleParams.build(key=range(rows), position=2, **options)
    truth = sample_tokens(z.double(), params, raw=True, backend="reference")
    plain = sample_tokens(z, params, raw=True, backend="reference")
    got = draw_on(runner, z, params)
    # Rounding moves running sums by about 1e-6 of the total, so 1 draw in 1e6 times the number of
    # edges nearby may differ.
    same = got.token == truth.token
    assert int((~same).sum()) <= 1
    both = same & (plain.token == truth.token)
    for name in FIELDS[1:]:
        tensors = (getattr(result, name)[both] for result in (got, plain, truth))
        assert_as_good_as_torch(*tensors)


def test_float64_tokens_are_the_same_everywhere() -> None:
    rows = 400
    z = random_logits(rows, 3000, seed=2)
    params = SampleParams.build(key=range(rows), position=0, temperature=0.9, top_p=0.97)
    expected = sample_tokens(z, params, backend="reference")
    for runner in CPU:
        with running(runner) as backend:
            got = sample_tokens(z, params, backend=backend)
        assert torch.equal(got.token, expected.token)


@pytest.mark.parametrize("runner", RUNNERS)
def test_greedy_takes_the_first_maximum(runner: str) -> None:
    z = torch.zeros(4, 200)
    z[0, [70, 30, 199]] = 2.0
    z[1, 199] = 1.0
    z[2] = -torch.inf
    z[2, [150, 100]] = -1e30
    params = SampleParams.build(key=range(4), position=0, temperature=0.0, top_k=1, top_p=0.1)
    drawn = draw_on(runner, z, params)
    assert drawn.token.tolist() == [30, 199, 100, 0]
    expected = torch.log_softmax(z, 1).gather(1, drawn.token[:, None])[:, 0]
    torch.testing.assert_close(drawn.logprob, expected)
    assert torch.equal(drawn.logprob, drawn.logprob_full)
    assert torch.equal(drawn.kept_mass, torch.ones(4))


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_draw_of_no_rows_gives_every_field(runner: str) -> None:
    drawn = draw_on(runner, torch.zeros(0, 5), SampleParams.build(key=[], position=0))
    assert [getattr(drawn, name).shape for name in FIELDS] == [(0,)] * len(FIELDS)


@pytest.mark.parametrize("runner", RUNNERS)
def test_ties_at_the_edge_stay(runner: str) -> None:
    z = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0, 2.0]], dtype=torch.float64).repeat(3, 1)
    # One token below the edge would do for each: the second of top-k, half of the mass.
    share = math.exp(3) + math.exp(2) * 0.5
    top_p = share / float(z[0].exp().sum())
    params = SampleParams.build(key=range(3), position=0, top_k=[2, 0, 3], top_p=[1, top_p, 1])
    drawn = draw_on(runner, z, params)
    kept = (math.exp(3) + 3 * math.exp(2)) / float(z[0].exp().sum())
    torch.testing.assert_close(drawn.kept_mass, torch.full((3,), kept, dtype=torch.float64))


def literal_penalties(
    z: list[float], entries: list[dict[str, float]], row: dict[str, float]
) -> None:
    """Bias and penalties exactly as the contract words them; changes ``z``."""
    for entry in entries:
        token = int(entry["token"])
        logit = z[token] + entry["bias"]
        if entry["in_prompt"] or entry["count"] > 0:
            logit = logit / row["repetition"] if logit > 0 else logit * row["repetition"]
        logit -= row["frequency"] * entry["count"]
        if entry["count"] > 0:
            logit -= row["presence"]
        z[token] = logit


def f32(value: float) -> float:
    """The nearest float32."""
    return float(torch.tensor(value, dtype=torch.float32))


@pytest.mark.parametrize("runner", RUNNERS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_penalties_and_bias(runner: str, data: st.DataObject) -> None:
    rows, vocab = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 150))
    number = st.floats(-3, 3).map(f32)
    listed = [
        [
            {
                "token": token,
                "bias": data.draw(number | st.just(-math.inf)),
                "count": data.draw(st.integers(0, 5)),
                "in_prompt": data.draw(st.integers(0, 1)),
            }
            for token in data.draw(st.lists(st.integers(1, vocab - 1), unique=True, max_size=8))
        ]
        for _ in range(rows)
    ]
    per_row = [
        {
            "repetition": f32(data.draw(st.floats(0.25, 4))),
            "presence": data.draw(number),
            "frequency": data.draw(number),
        }
        for _ in range(rows)
    ]
    flat = [entry for entries in listed for entry in entries]

    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([entry[name] for entry in flat], dtype=dtype)

    adjust = LogitAdjust(
        indptr=torch.tensor([0, *(len(e) for e in listed)]).cumsum(0),
        token_ids=column("token", torch.int32),
        bias=column("bias", torch.float32),
        count=column("count", torch.int32),
        in_prompt=column("in_prompt", torch.uint8),
        **{
            n: torch.tensor([r[n] for r in per_row])
            for n in ("repetition", "presence", "frequency")
        },
    )
    z = random_logits(rows, vocab, seed=data.draw(st.integers(0, 2**32)))
    expected = z.clone()
    for row in range(rows):
        values = z[row].tolist()
        literal_penalties(values, listed[row], per_row[row])
        expected[row] = torch.tensor(values, dtype=torch.float64)
    params = SampleParams.build(key=range(rows), position=0, temperature=0.8)
    before = z.clone()
    got = draw_on(runner, z, params, adjust=adjust)
    want = sample_tokens(expected, params, backend="reference")
    assert torch.equal(z, before)  # the caller's logits are not modified
    assert torch.equal(got.token, want.token)
    raw = torch.log_softmax(z, 1).gather(1, want.token[:, None])[:, 0]
    for name in FIELDS[1:]:
        expected = raw if name == "logprob_raw" else getattr(want, name)
        torch.testing.assert_close(getattr(got, name), expected, rtol=1e-12, atol=1e-12)


def make_adjust(rows: int, token: int, bias: float) -> LogitAdjust:
    """The same bias on the same token of every row."""
    ones = torch.ones(rows)
    return LogitAdjust(
        indptr=torch.arange(rows + 1),
        token_ids=torch.full((rows,), token, dtype=torch.int32),
        bias=torch.full((rows,), bias),
        count=torch.zeros(rows, dtype=torch.int32),
        in_prompt=torch.zeros(rows, dtype=torch.uint8),
        repetition=ones,
        presence=ones * 0,
        frequency=ones * 0,
    )


# Triton's interpreter is numpy, which warns of infinity less infinity.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_unusable_rows_are_named(runner: str, dtype: torch.dtype) -> None:
    good = torch.zeros(3, 130, dtype=dtype)
    params = SampleParams.build(key=range(3), position=0, temperature=[1.0, 0.0, 1.0])
    for value, token in [(torch.nan, 0), (torch.nan, 129), (torch.inf, 70)]:
        for row in range(3):
            bad = good.clone()
            bad[row, token] = value
            with pytest.raises(NumericalError, match=rf"logits\[{row}\]"):
                draw_on(runner, bad, params)
    bad = good.clone()
    bad[2] = -torch.inf
    with pytest.raises(NumericalError, match=r"logits\[2\]"):
        draw_on(runner, bad, params)
    index = torch.tensor([1, 2, 0])
    with pytest.raises(NumericalError, match=r"logits\[2\] \(row 1 of the draw\)"):
        draw_on(runner, bad, params, index)
    one = SampleParams.build(key=[0], position=0)
    banned = make_adjust(1, 0, -math.inf)
    with pytest.raises(NumericalError, match="every token is banned"):
        draw_on(runner, torch.zeros(1, 1, dtype=dtype), one, adjust=banned)


@pytest.mark.parametrize("runner", RUNNERS)
def test_banned_tokens_are_never_drawn(runner: str) -> None:
    rows = 50 if runner == "triton" else 500
    z = torch.zeros(1, 3)
    params = SampleParams.build(key=range(rows), position=0)
    index = torch.zeros(rows, dtype=torch.int64)
    drawn = draw_on(runner, z, params, index, make_adjust(rows, 1, -math.inf))
    assert set(drawn.token.tolist()) == {0, 2}


def fields(result: SampledTokens) -> list[torch.Tensor]:
    return [getattr(result, name) for name in FIELDS]


@pytest.mark.parametrize("runner", [*CPU, "triton"])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_bits_depend_on_the_row_alone(runner: str, options: dict[str, Any]) -> None:
    rows = 9
    z = random_logits(rows, 1000, seed=3).float()
    params = SampleParams.build(key=range(rows), position=range(rows), **options)
    whole = draw_on(runner, z, params)
    with torch_threads(3):
        again = draw_on(runner, z, params)
    for row in (0, 4, 8):
        one = SampleParams.build(key=[row], position=[row], **options)
        alone = draw_on(runner, z[row : row + 1], one)
        indexed = draw_on(runner, z, one, torch.tensor([row]))
        for tensor, a, b in zip(fields(whole), fields(alone), fields(indexed), strict=True):
            assert torch.equal(tensor[row : row + 1], a)
            assert torch.equal(a, b)
    for tensor, same in zip(fields(whole), fields(again), strict=True):
        assert torch.equal(tensor, same)


@pytest.mark.parametrize("runner", RUNNERS)
def test_strided_logits(runner: str) -> None:
    z = random_logits(4, 130, seed=4)
    padded = torch.full((4, 200), torch.nan, dtype=torch.float64)
    padded[:, :130] = z
    params = SampleParams.build(key=range(4), position=0, top_p=0.9)
    expected = sample_tokens(z, params, backend="reference")
    for layout in (padded[:, :130], z.t().contiguous().t()):
        got = draw_on(runner, layout, params)
        assert torch.equal(got.token, expected.token)


@pytest.mark.parametrize("runner", RUNNERS)
def test_no_rows(runner: str) -> None:
    params = SampleParams.build(key=[], position=[])
    drawn = draw_on(runner, torch.zeros(0, 5), params)
    assert drawn.token.shape == (0,)


@pytest.mark.parametrize("runner", [*CPU, "triton"])
def test_bad_indices_are_refused(runner: str) -> None:
    z = torch.zeros(2, 10)
    params = SampleParams.build(key=[0, 1], position=0)
    for index in (-1, 2):
        with pytest.raises(ValueError, match=rf"row_index\[1\]: is {index}"):
            draw_on(runner, z, params, torch.tensor([0, index]))
    for token in (-1, 10):
        if runner == "triton":  # nobody waits for the device to look
            drawn = draw_on(runner, z, params, adjust=make_adjust(2, token, math.inf))
            assert torch.equal(drawn.token, draw_on(runner, z, params).token)
            continue
        with pytest.raises(ValueError, match=rf"token_ids\[0\]: is {token}"):
            draw_on(runner, z, params, adjust=make_adjust(2, token, 0.0))


def test_bad_arguments_are_refused() -> None:
    z, params = torch.zeros(2, 10), SampleParams.build(key=[0, 1], position=0)
    for arguments, options, message in [
        ((z[0], params), {}, "logits: shape"),
        ((z.int(), params), {}, "logits: dtype"),
        ((z[:, :0], params), {}, "vocabulary is empty"),
        ((z[:1], params), {}, r"params: shape is \[2\], must be \[1\]"),
        ((z, params), {"row_index": torch.tensor([0])}, "row_index: shape"),
        ((z, params), {"row_index": torch.tensor([0.0, 1.0])}, "row_index: dtype"),
        ((z, params), {"adjust": make_adjust(3, 0, 0.0)}, "adjust.repetition: shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample_tokens(*arguments, **options)
    with pytest.raises(ValueError, match=r"params.top_k: is torch.int64 \[2\]"):
        SampleParams(
            **{n: getattr(params, n) for n in params.__slots__ if n != "top_k"},
            top_k=torch.tensor([1, 2]),
        )
