"""What the extension does to its process: threads, forks, instruction sets, flags."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from fastsi import _ext, env
from fastsi.ops import SampleParams, sample_tokens, segment_attention
from tests.ops.support import integers, qkv, random_tree, torch_threads

ISAS = [name for name in env.ISA.choices or () if name != "auto"]


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def task() -> Callable[[], torch.Tensor]:
    """Some attention that is large enough to use several threads."""
    tree = random_tree(integers(torch.Generator().manual_seed(1)), page_size=16, longest=300)
    plan = tree.plan()
    tensors = qkv(
        plan,
        heads=(8, 2),
        head_dim=32,
        page_size=16,
        pages=tree.num_pages,
        seed=1,
        dtype=torch.float32,
    )
    return lambda: segment_attention(*tensors, plan, backend="cpu")[0]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_there_is_one_thread_pool() -> None:
    """No second OpenMP runtime is loaded, and no threads are added to torch's."""
    script = (
        "import os, sys, torch\n"
        "torch.set_num_threads(3)\n"
        "(torch.ones(2000, 2000) + 1).sum()\n"
        "torch.ones(400, 400) @ torch.ones(400, 400)\n"
        "runtimes = lambda: {l.split()[-1] for l in open('/proc/self/maps')\n"
        "                    if any(n in l for n in ('libgomp', 'libomp', 'libiomp'))}\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = runtimes(), threads()\n"
        "import fastsi._C as C\n"
        # Last on the path: the checkout's fastsi/ must not hide the installed one.
        f"sys.path.append({str(Path(__file__).resolve().parents[2])!r})\n"
        "from tests.ops.test_runtime import task\n"
        "loaded, work = threads(), task()\n"
        "work(); work()\n"
        "assert C.thread_pool() == 'openmp'\n"
        "assert (runtimes(), threads()) == (before[0], loaded), (before, runtimes(), threads())\n"
        "assert loaded == before[1], (before, loaded)\n"
    )
    result = run_python(script)
    assert result.returncode == 0, result.stderr


def test_importing_changes_no_flags() -> None:
    script = (
        "import torch\n"
        "torch.set_num_threads(2)\n"
        "tiny = torch.full((64,), 1e-42)\n"
        "third = torch.ones(64) / 3\n"
        "before = tiny * 0.5, third.clone()\n"
        "import fastsi, fastsi.ops as ops\n"
        "p = ops.SampleParams.build(key=[1, 2], position=0)\n"
        "ops.sample_tokens(torch.randn(2, 500), p, backend='cpu')\n"
        "assert torch.get_num_threads() == 2\n"
        "assert torch.equal(before[0], tiny * 0.5) and bool((before[0] != 0).all())\n"
        "assert torch.equal(before[1], torch.ones(64) / 3)\n"
        "assert 1e-42 * 0.5 != 0\n"
    )
    result = run_python(script)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("isa", ISAS)
def test_isa_is_forced_by_the_environment(isa: str) -> None:
    if isa not in _ext.core().available_isas():
        pytest.skip(f"this CPU or build has no {isa}")
    script = "from fastsi import _ext; print(_ext.core().isa())"
    result = run_python(script, FASTSI_ISA=isa)
    assert result.stdout.strip() == isa, result.stderr


def test_bad_isa_names_are_refused() -> None:
    before = _ext.core().isa()
    levels = "portable, avx2, avx2_vnni, avx512, avx512_vnni, avx512_bf16 or amx"
    with pytest.raises(ValueError, match=f"must be auto, {levels}"):
        _ext.core().set_isa("sse9")
    assert _ext.core().isa() == before
    result = run_python("from fastsi import _ext; _ext.core()", FASTSI_ISA="neon")
    assert "FASTSI_ISA='neon'" in result.stderr
    missing = set(ISAS) - set(_ext.core().available_isas())
    for isa in missing:
        with pytest.raises(ValueError, match="this CPU or this build lacks it"):
            _ext.core().set_isa(isa)


def _in_child(work: Callable[[], torch.Tensor], pipe: Connection) -> None:
    # Bytes, not a tensor: tensors are sent through shared memory and need a live sender.
    pipe.send((_ext.core().thread_pool(), work().numpy().tobytes()))


def test_a_forked_child_can_work() -> None:
    """The parent's OpenMP threads do not survive a fork; waiting for them would hang.

    The child runs nothing of torch's that is parallel, since torch itself would hang.
    """
    with torch_threads(3):
        work = task()
        expected = work()
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        child = context.Process(target=_in_child, args=(work, theirs), daemon=True)
        child.start()
        try:
            assert ours.poll(300), "the child hangs"
            pool, data = ours.recv()
        finally:
            child.join(timeout=60)
            child.kill()
        assert child.exitcode == 0
        assert torch.equal(work(), expected)  # the parent still works
    assert pool == "std"
    assert data == expected.numpy().tobytes()


def test_python_threads_may_call_at_once() -> None:
    with torch_threads(2):
        work = task()
        expected = work()
        same: list[bool] = []

        def check() -> None:
            same.extend(torch.equal(work(), expected) for _ in range(5))

        threads = [threading.Thread(target=check) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=300)
    assert same == [True] * 20


def test_errors_name_what_is_wrong() -> None:
    """Views that Python's checks would not let through are still refused by the core."""
    core = _ext.core()
    with pytest.raises(ValueError, match="at most 4 dimensions"):
        core.TensorView(0, (1,) * 5, (1,) * 5, 0)
    with pytest.raises(ValueError, match="no dtype 9"):
        core.TensorView(0, (1,), (1,), 9)
    flat = core.TensorView(0, (1,), (1,), 0)
    with pytest.raises(ValueError, match="outs: has 1 dimensions, must have 4"):
        core.merge_states(flat, flat, flat, flat, 1)


def test_sampling_the_same_in_python_threads() -> None:
    """Scratch memory belongs to a thread: vocabularies of different sizes do not mix."""
    results: dict[int, list[int]] = {}

    def draw(vocab: int) -> None:
        logits = torch.randn(4, vocab, generator=torch.Generator().manual_seed(vocab))
        params = SampleParams.build(key=range(4), position=0, top_p=0.9)
        runs = {tuple(sample_tokens(logits, params).token.tolist()) for _ in range(20)}
        results[vocab] = [len(runs), max(max(run) for run in runs)]

    threads = [threading.Thread(target=draw, args=(v,)) for v in (10, 5000, 70, 20000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert {v: r[0] for v, r in results.items()} == {10: 1, 5000: 1, 70: 1, 20000: 1}
    assert all(largest < vocab for vocab, (_, largest) in results.items())
