"""kv_write: exact copies in every type, skipped rows, and refusals that write nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.ops import kv_write
from tests.ops.support import device_of, runners, running, torch_threads

RUNNERS = runners("kv_write")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's raw bits, so that NaN payloads and signs of zero compare."""
    size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(size)


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Any bit pattern of a floating type: NaNs with payloads, infinities, subnormals."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_exact(runner: str, dtype: torch.dtype, data: st.DataObject) -> None:
    pages, heads, size, dim = (data.draw(st.integers(1, top)) for top in (7, 3, 17, 70))
    seed = data.draw(st.integers(0, 2**32))
    cache = random_bits((2, pages, heads, size, dim), dtype, seed)
    rows = data.draw(st.integers(0, min(pages * size, 150)))
    slots = torch.randperm(pages * size, generator=torch.Generator().manual_seed(seed))[:rows]
    slots[torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.2] = -1
    k, v = random_bits((2, rows, heads, dim), dtype, seed + 1)
    expected = cache.clone()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected[0, slot // size, :, slot % size] = k[row]
            expected[1, slot // size, :, slot % size] = v[row]
    device = device_of(runner)
    cache, k, v, slots = (tensor.to(device) for tensor in (cache, k, v, slots))
    with running(runner) as backend:
        kv_write(k, v, cache[0], cache[1], slots, backend=backend)
    assert torch.equal(bits(cache.cpu()), bits(expected))


@pytest.mark.parametrize("runner", RUNNERS)
def test_strided_input_and_many_rows(runner: str) -> None:
    """Slices of a fused projection, more rows than one task of the parallel loop takes."""
    rows = 700
    device = device_of(runner)
    fused = torch.randn(rows, 4, 6, generator=torch.Generator().manual_seed(0)).to(device)
    k, v = fused[:, :2], fused[:, 2:].transpose(1, 2).contiguous().transpose(1, 2)
    cache = torch.zeros(2, 50, 2, 16, 6, device=device)
    slots = torch.randperm(800, generator=torch.Generator().manual_seed(1))[:rows].to(device)
    with running(runner) as backend, torch_threads(3):
        kv_write(k, v, cache[0], cache[1], slots, backend=backend)
    flat = cache.transpose(2, 3).reshape(2, 800, 2, 6)
    assert torch.equal(flat[0, slots], k)
    assert torch.equal(flat[1, slots], v)
    untouched = torch.ones(800, dtype=torch.bool)
    untouched[slots] = False
    assert (flat[:, untouched] == 0).all()


@pytest.mark.parametrize("runner", RUNNERS)
def test_float32_into_bfloat16_rounds_to_nearest_even(runner: str) -> None:
    """Every bfloat16 and the values a quarter, half and three quarters of the way to the next."""
    upper = torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16
    lower = torch.tensor([0, 0x4000, 0x7FFF, 0x8000, 0x8001, 0xC000], dtype=torch.int32)
    values = (upper[:, None] + lower).view(torch.float32).reshape(-1, 2, 96)
    cache = torch.zeros(2, -(-len(values) // 32), 2, 32, 96, dtype=torch.bfloat16)
    slots = torch.arange(len(values))
    device = device_of(runner)
    values, cache, slots = values.to(device), cache.to(device), slots.to(device)
    with running(runner) as backend:
        kv_write(values, -values, cache[0], cache[1], slots, backend=backend)
    got = cache.transpose(2, 3).reshape(2, -1, 2, 96)[:, : len(values)]
    expected = torch.stack([values, -values]).to(torch.bfloat16)
    number = ~expected.isnan()
    assert torch.equal(bits(got)[number], bits(expected)[number])
    assert got[~number].isnan().all()


@pytest.mark.parametrize("runner", [name for name in RUNNERS if name != "triton"])
@pytest.mark.parametrize("slot", [-2, 32, 2**40])
def test_a_bad_slot_writes_nothing(runner: str, slot: int) -> None:
    cache = torch.zeros(2, 2, 1, 16, 4)
    k = torch.ones(2, 1, 4)
    with running(runner) as backend, pytest.raises(ValueError, match="slots"):
        kv_write(k, k, cache[0], cache[1], torch.tensor([3, slot]), backend=backend)
    assert (cache == 0).all()


@pytest.mark.parametrize("slot", [-2, 32, 2**40])
def test_triton_skips_a_bad_slot(slot: int) -> None:
    """Nobody may wait for a GPU to look at slots, so a wrong one must do no harm."""
    device = device_of("triton")
    cache = torch.zeros(2, 4, 1, 16, 4, device=device)
    k = torch.ones(2, 1, 4, device=device)
    slots = torch.tensor([3, slot], device=device)
    with running("triton") as backend:
        kv_write(k, 2 * k, cache[0, :2], cache[1, :2], slots, backend=backend)
    assert (cache[0, 0, 0, 3] == 1).all()
    assert (cache[1, 0, 0, 3] == 2).all()
    assert cache.sum() == 4 + 8


@pytest.mark.parametrize("runner", RUNNERS)
def test_bad_arguments_are_refused(runner: str) -> None:
    k, slots = torch.ones(2, 1, 4), torch.tensor([0, 1])
    cache = torch.zeros(2, 1, 16, 4)
    other = cache.clone()
    with running(runner) as backend:
        for arguments, message in [
            ((k.bfloat16(), k.bfloat16(), cache, other, slots), "k_cache: dtype is torch.float32"),
            ((k, k.double(), cache, other, slots), "v: dtype is torch.float64"),
            ((k, k, cache, other.half(), slots), "v_cache: dtype is torch.float16"),
            ((k, k, cache, other, slots.int()), "slots: dtype is torch.int32"),
            ((k, k, cache, other, slots[:1]), "k: shape"),
            ((k, k[:, :, :3], cache, other, slots), "v: shape"),
            ((k, k, cache.repeat(1, 2, 1, 1), other, slots), "k_cache: shape"),
            ((k, k, cache.transpose(0, 2), other.transpose(0, 2), slots), "contiguous"),
        ]:
            with pytest.raises(ValueError, match=message):
                kv_write(*arguments, backend=backend)
    assert (cache == 0).all()
    assert (other == 0).all()
