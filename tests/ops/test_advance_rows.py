"""advance_rows: every buffer after a token, against a loop over rows; nothing else is touched."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.ops import RowBuffers, advance_rows
from tests.ops.support import device_of, runners, running

RUNNERS = runners("advance_rows")
FIELDS = [field.name for field in dataclasses.fields(RowBuffers)]


def draws(
    rows: int, segments: int, spans: int, numbers: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, RowBuffers, torch.Tensor]:
    """Tokens, slots, what was drawn last, buffers, and the records that hold the span ends."""
    generator = torch.Generator().manual_seed(seed)

    def some(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator).to(dtype)

    records = some(0, 2**30, spans, 5, dtype=torch.int32)
    live = some(0, 2, rows + 1)
    live[-1] = 0
    buffers = RowBuffers(
        ids=some(-1, 2**40, rows),
        moving=some(-1, 2**40, numbers, rows),
        row_pos=some(0, 2**30, rows, dtype=torch.int32),
        kv_len=some(0, 2**30, segments, dtype=torch.int32),
        span_ends=records[:, 3],
        live=live,
        grows_with=some(0, rows + 1, segments + spans),
    )
    slots = torch.randperm(rows + 3, generator=generator)[:rows]
    return some(-1, 2**40, rows), slots, some(0, 2**40, rows + 3), buffers, records


def on(device: torch.device, rows: RowBuffers, records: torch.Tensor) -> RowBuffers:
    """The buffers on a device, span ends as a column of records there."""
    moved = {name: getattr(rows, name).to(device) for name in FIELDS}
    return RowBuffers(**(moved | {"span_ends": records.to(device)[:, 3]}))


@pytest.mark.parametrize("runner", RUNNERS)
@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(0, 300),
    segments=st.integers(0, 200),
    spans=st.integers(0, 200),
    numbers=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_every_buffer(
    runner: str, rows: int, segments: int, spans: int, numbers: int, seed: int
) -> None:
    token, slots, last, buffers, records = draws(rows, segments, spans, numbers, seed)
    want = {name: getattr(buffers, name).tolist() for name in FIELDS}
    want_last, live = last.tolist(), buffers.live.tolist()
    for row, drawn in enumerate(token.tolist()):
        want_last[int(slots[row])] = max(drawn, 0)
        if live[row]:
            want["ids"][row] = max(drawn, 0)
            want["row_pos"][row] += 1
            for number in range(numbers):
                want["moving"][number][row] += 1
    for at, row in enumerate(buffers.grows_with.tolist()):
        name, place = ("kv_len", at) if at < segments else ("span_ends", at - segments)
        want[name][place] += live[row]
    other_columns = records[:, [0, 1, 2, 4]].tolist()

    device = device_of(runner)
    given_last, given_records = last.to(device), records.to(device)
    moved = dataclasses.replace(on(device, buffers, records), span_ends=given_records[:, 3])
    with running(runner) as backend:
        advance_rows(token.to(device), slots.to(device), given_last, moved, backend=backend)
    assert {name: getattr(moved, name).tolist() for name in FIELDS} == want
    assert given_last.tolist() == want_last
    assert given_records[:, [0, 1, 2, 4]].tolist() == other_columns


@pytest.mark.parametrize("runner", RUNNERS)
def test_rows_of_padding_may_share_a_slot(runner: str) -> None:
    """One of their tokens stays there, and all other slots are their rows'."""
    token, slots, last, buffers, records = draws(200, 3, 5, 3, seed=1)
    slots[20:] = 150
    slots[:20] = torch.arange(20)
    device = device_of(runner)
    kept = last.to(device)
    with running(runner) as backend:
        rows = on(device, buffers, records)
        advance_rows(token.to(device), slots.to(device), kept, rows, backend=backend)
    drawn = token.clamp(min=0)
    assert torch.equal(kept[:20].cpu(), drawn[:20])
    assert int(kept[150]) in drawn[20:].tolist()
    untouched = [slot for slot in range(20, 203) if slot != 150]
    assert torch.equal(kept[untouched].cpu(), last[untouched])


@pytest.mark.parametrize("runner", [name for name in RUNNERS if name.startswith("cpu")])
@pytest.mark.parametrize(
    ("name", "index"), [("slots", -1), ("slots", 11), ("grows_with", -1), ("grows_with", 9)]
)
def test_an_index_outside_is_refused_and_nothing_is_changed(
    runner: str, name: str, index: int
) -> None:
    token, slots, last, buffers, _ = draws(8, 4, 4, 3, seed=2)
    (slots if name == "slots" else buffers.grows_with)[-1] = index
    before = [last.clone(), *(getattr(buffers, field).clone() for field in FIELDS)]
    with running(runner) as backend, pytest.raises(ValueError, match=rf"{name}\[7\]: is {index}"):
        advance_rows(token, slots, last, buffers, backend=backend)
    after = [last, *(getattr(buffers, field) for field in FIELDS)]
    assert all(torch.equal(was, now) for was, now in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        (field, wrong)
        for field in ("last", *FIELDS)
        for wrong in ("dtype", "shape", "strides")
        if (field, wrong) != ("span_ends", "strides")  # these may have any
    ],
)
def test_what_does_not_fit_is_named(field: str, wrong: str) -> None:
    token, slots, last, buffers, _ = draws(8, 4, 4, 3, seed=3)
    values = {"last": last} | {name: getattr(buffers, name) for name in FIELDS}
    value = values[field]
    if wrong == "dtype":
        values[field] = value.float()
    elif wrong == "shape":  # `last` has any length, but one dimension
        values[field] = value[:, :-1] if value.dim() == 2 else value.repeat(2, 2)
    else:
        values[field] = value.repeat_interleave(2, dim=-1)[..., ::2]
    last = values.pop("last")
    with pytest.raises(ValueError, match=f"^(rows.)?{field}: "):
        advance_rows(token, slots, last, RowBuffers(**values))
