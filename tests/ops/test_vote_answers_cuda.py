"""The CUDA kernel of `vote_answers`: what it compiles to, and the host's side of it, without a GPU.

On a GPU, test_vote_answers.py runs every case of the op on it.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from fastsi import _ext
from fastsi.ops.vote_answers._cuda import HOST, KEY, PathKeys, merge_keys
from fastsi.vote.extract import reference_answer_key
from tests.support.responses import response

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_kernel_compiles_without_spills(arch: str, tmp_path: Path) -> None:
    command = ["nvcc", "-std=c++17", "-O3", f"-arch={arch}", f"-I{ROOT / 'csrc/include'}"]
    command += ["-Xptxas", "-v", "-c", str(ROOT / "csrc/cuda/vote_answers.cu")]
    command += ["-o", str(tmp_path / "vote_answers.o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = done.stdout + done.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", report)
    assert frames == [("0", "0", "0")] * 2, report  # int32 and int64 tokens
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    assert len(registers) == 2
    assert max(registers) <= 64, report  # 32 warps on a multiprocessor


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
