"""The CUDA kernel of `vote_answers`: what it compiles to, and the host's side of it, without a GPU.

On a GPU, test_vote_answers.py runs every case of the op on it.
"""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from fastsi import _ext
from fastsi.ops import TokenBytes
from fastsi.ops.vote_answers._cuda import HOST, KEY, PathKeys, merge_keys
from fastsi.vote.extract import reference_answer_key
from tests.ops.test_vote_answers import encode, make_table
from tests.support.nvcc import INCLUDES, ROOT, kernel_registers, needs_nvcc
from tests.support.responses import response


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_kernel_compiles_without_spills(arch: str, tmp_path: Path) -> None:
    registers = kernel_registers("vote_answers.cu", arch, tmp_path)
    assert len(registers) == 2  # int32 and int64 tokens
    assert max(registers) <= 64  # 32 warps on a multiprocessor


def keys_on_host(texts: list[str]) -> PathKeys:
    """What the kernel would say of these texts: its rules are run on the host."""
    columns = []
    for text in texts:
        key = _ext.core().device_answer_key(text)
        if key is NotImplemented or key is None:
            columns.append((HOST if key is NotImplemented else 0, 0, 7, 7))
            continue
        kind, _, value = key.partition(":")
        if kind == "num":
            number = Fraction(value)
            columns.append((KEY, 0, number.numerator, number.denominator))
        elif kind == "choice":
            columns.append((KEY, 1, ord(value), 1))
        else:
            columns.append((KEY, 2, int(value == "yes"), 1))
    status, kinds, top, bottom = torch.tensor(columns).reshape(-1, 4).T
    return PathKeys(status.to(torch.uint8), kinds.to(torch.uint8), top, bottom)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_keys_of_device_and_host_are_merged(count: int) -> None:
    rng = random.Random(count)
    marks = ("{}\nThe answer is {}.", "{}", "\n#### {1}", "{}\n\\boxed{{{}}}")
    spans = ("18", "18.0", "-7", "1/3", "(B)", "yes", "No", "Paris", "(1, 2)", "18 apples")
    texts = [rng.choice(marks).format(response(rng), rng.choice(spans)) for _ in range(count)]
    found = keys_on_host(texts)
    left = (found.status == HOST).nonzero()[:, 0].tolist()
    keys, key_id = merge_keys(found, {path: reference_answer_key(texts[path]) for path in left})
    wanted = [reference_answer_key(text) for text in texts]
    assert keys == list(dict.fromkeys(key for key in wanted if key is not None))
    assert key_id.dtype == torch.int32
    assert [None if i < 0 else keys[i] for i in key_id.tolist()] == wanted
    if count > 1:
        assert 0 < len(left) < count


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernel compiled for threads."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on PATH")
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", *INCLUDES]
    command += [str(ROOT / "csrc/tests/emulate_vote_answers.cc"), "-o", str(library)]
    subprocess.run(command, check=True, timeout=900)
    return ctypes.CDLL(str(library))


def run_kernel(
    kernel: ctypes.CDLL, table: TokenBytes, paths: list[list[int]], capacity: int
) -> tuple[PathKeys, int]:
    """What the kernel says of the paths, and the place of the first unknown token."""
    tokens = torch.tensor([token for path in paths for token in path], dtype=torch.int32)
    indptr = torch.tensor([0, *map(len, paths)]).cumsum(0)
    status, kind = (torch.full((len(paths),), 9, dtype=torch.uint8) for _ in range(2))
    top, bottom = (torch.zeros(len(paths), dtype=torch.int64) for _ in range(2))
    bad = torch.tensor([len(tokens)])
    blocks = 2
    scratch = torch.zeros(blocks * 4, capacity, dtype=torch.uint8)

    def at(tensor: torch.Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    kernel.read_path_keys(
        *map(at, (table.data, table.offsets, table.flags)),
        *(ctypes.c_int64(table.size), table.strip_first_blank, at(tokens), at(indptr)),
        *(ctypes.c_int64(len(paths)), at(scratch), capacity, blocks),
        *map(at, (status, kind, top, bottom, bad)),
    )
    return PathKeys(status, kind, top, bottom), int(bad)


def byte_table() -> TokenBytes:
    """Byte-fallback tokens, two plain ones and a special one; a first blank is left out."""
    parts = [bytes([byte]) for byte in range(256)] + [b" So", b" the answer is ", b""]
    return TokenBytes.from_parts(parts, [2] * 256 + [0, 0, 1], strip_first_blank=True)


@pytest.mark.parametrize("bytes_only", [False, True])
def test_the_kernel_on_threads_says_what_its_rules_say(
    kernel: ctypes.CDLL, bytes_only: bool
) -> None:
    rng = random.Random(6)
    table = byte_table() if bytes_only else make_table()
    ends = (
        *(
            "The answer is 18.",
            " The answer is 1,234 ",
            "\\boxed{(B)}",
            "",
            "\n#### yes\n",
            "\u00e9",
        ),
        "The answer is 3.</think> So there are a few of them, and each is red, and each of them",
        "The answer is 4.\n\nQuestion: How many? The answer is 5.",
    )
    step = " Then she has 3 boxes of 4 pens."
    texts = [step * rng.randint(0, 9) + rng.choice(ends) for _ in range(120)]
    texts += ["", " ", *(response(rng) for _ in range(60))]
    paths = [list(text.encode()) if bytes_only else encode(text, rng) for text in texts]
    found, bad = run_kernel(kernel, table, paths, 256)
    assert bad == sum(map(len, paths))
    wanted = keys_on_host([table.decode(path) for path in paths])
    for path, (text, tokens) in enumerate(zip(texts, paths, strict=True)):
        if len(text.encode()) > 256 or (bytes_only and not text.isascii()):
            assert found.status[path] == HOST, tokens
            continue
        assert found.status[path] == wanted.status[path], text
        if found.status[path] == KEY:
            for one, two in ((found.kind, wanted.kind), (found.numerator, wanted.numerator)):
                assert one[path] == two[path], text
            assert found.denominator[path] == wanted.denominator[path], text
    assert {0, KEY, HOST} == set(found.status.tolist())


def test_the_kernel_finds_the_first_unknown_token(kernel: ctypes.CDLL) -> None:
    table = make_table()
    paths = [[49] * 40, [50, table.size, -1], [-4]]
    assert run_kernel(kernel, table, paths, 64)[1] == 41
