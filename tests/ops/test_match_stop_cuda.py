"""The CUDA kernel of `match_stop`: what it compiles to, and its results on threads, without a GPU.

On a GPU, test_match_stop.py runs its cases on it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fastsi import ops
from fastsi.ops.match_stop.state import TextRules
from fastsi.ops.token_bytes import SKIPPED
from tests.ops.test_match_stop import SEED, mutated
from tests.support.nvcc import INCLUDES, ROOT, kernel_registers, needs_nvcc


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_kernel_compiles_without_spills(arch: str, tmp_path: Path) -> None:
    assert len(kernel_registers("match_stop.cu", arch, tmp_path)) == 1


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernel compiled for threads."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on PATH")
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", *INCLUDES]
    command += [str(ROOT / "csrc/tests/emulate_match_stop.cc"), "-o", str(library)]
    subprocess.run(command, check=True, timeout=900)
    return ctypes.CDLL(str(library))


def run_kernel(
    kernel: ctypes.CDLL,
    tokens: torch.Tensor,
    slots: torch.Tensor,
    table: ops.TokenBytes,
    rules: ops.StopRules,
    state: ops.StopState,
    *,
    spare: int = 0,
) -> torch.Tensor:
    """What the kernel says; ``spare`` bytes are missing from its buffer."""
    hit = torch.full((len(tokens),), 9, dtype=torch.uint8)
    scratch = torch.zeros(len(tokens), state.tail.shape[1] + table.longest - spare).byte()

    def at(tensor: torch.Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    def fields(one: object) -> list[ctypes.c_void_p]:
        return [at(getattr(one, field.name)) for field in dataclasses.fields(one)]  # type: ignore[arg-type]

    kernel.match_stop(
        *(at(tokens), at(slots), ctypes.c_int64(len(tokens))),
        *(*map(at, (table.data, table.offsets, table.flags)), ctypes.c_int64(table.size)),
        *(*fields(rules), ctypes.c_int64(len(rules.answers))),
        *(*fields(state), ctypes.c_int64(state.tail.shape[0]), state.tail.shape[1]),
        *(at(scratch), scratch.shape[1], at(hit)),
    )
    return hit


def token_table(rng: random.Random) -> ops.TokenBytes:
    """Every byte, and longer pieces of texts that the rules know, some of them special."""
    parts = [bytes([value]) for value in range(256)]
    parts += [mutated(rng)[:60] for _ in range(300)] + [b"", b"END", b"\nQ:"]
    return ops.TokenBytes.from_parts(parts, [SKIPPED * (i % 97 == 5) for i in range(len(parts))])


def test_the_kernel_on_threads_does_what_its_twin_does(kernel: ctypes.CDLL) -> None:
    """Hits, texts and state are equal after every token of many random texts."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    table = token_table(rng)
    stops = ["\nQ:", "END", "\u00e9\u00e9", "z" * 300]
    classes: list[TextRules] = [(stops, False, True), ([], True, True), (stops, True, False)]
    rules = ops.StopRules.make(classes)
    count, hits = 24, 0
    for _ in range(3):
        states = [ops.StopState.make(count + 3, rules.width) for _ in "ab"]
        for slot in range(count):
            rule, text, thinks = rng.randrange(-1, 3), mutated(rng), rng.random() < 0.1
            for state in states:
                state.begin(slot, rule, text, thinks)
        for _ in range(40):
            chosen = rng.sample(range(count), rng.randrange(1, count))
            slots = torch.tensor(chosen)
            ids = [rng.randrange(table.size + 1) for _ in chosen]  # one is beyond the table
            texts = [rng.randrange(256, table.size) if rng.random() < 0.5 else i for i in ids]
            tokens = torch.tensor(texts)
            got = run_kernel(kernel, tokens, slots, table, rules, states[0])
            want = ops.match_stop(tokens, slots, table, rules, states[1], backend="cpu")
            assert torch.equal(got, want)
            for field in dataclasses.fields(ops.StopState):
                mine, twin = (getattr(state, field.name) for state in states)
                if field.name == "tail":  # what stands beyond the length is anything
                    inside = torch.arange(rules.width) < states[1].length[:, None]
                    mine, twin = mine.where(inside, 0), twin.where(inside, 0)
                assert torch.equal(mine, twin), field.name
            hits += int(want.sum())
    assert hits > 50, "the texts hardly ever end"


def test_rows_that_are_no_rows_are_no_hits(kernel: ctypes.CDLL) -> None:
    table = ops.TokenBytes.from_parts([b"END"], [0])
    rules = ops.StopRules.make([(["END"], False, True)])
    state = ops.StopState.make(3, rules.width)
    state.begin(0, 0)
    state.begin(1, 0)
    state.rule[1] = 7  # no such class
    slots, tokens = torch.tensor([-1, 3, 1, 2, 0]), torch.zeros(5, dtype=torch.int64)
    assert run_kernel(kernel, tokens, slots, table, rules, state).tolist() == [0, 0, 0, 0, 1]
    tokens[:] = torch.tensor([0, 0, 0, 0, -1])
    assert run_kernel(kernel, tokens, slots, table, rules, state).sum() == 0


def test_a_buffer_that_is_too_short_leaves_the_row_to_the_host(kernel: ctypes.CDLL) -> None:
    table = ops.TokenBytes.from_parts([b"x" * 20], [0])
    rules = ops.StopRules.make([([], True, True)])
    state = ops.StopState.make(1, rules.width)
    state.begin(0, 0, b"y" * 256)
    one = torch.tensor([0])
    assert run_kernel(kernel, one, one, table, rules, state, spare=5).tolist() == [1]
    assert run_kernel(kernel, one, one, table, rules, state).tolist() == [0]
