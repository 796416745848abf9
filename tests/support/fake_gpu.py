"""A GPU that computes nothing, to see on any machine what the host asks of one.

Its tensors are torch's fake tensors: sizes, types and the device are real, values are not there.
Kernels of Triton and of the extension are counted, not run. Within `FakeGpu.strict` whatever would
make the host wait for the device raises `Waits`: a value that is read, a shape that depends on
values, a copy to the host, and a copy to the device that is not asynchronous from pinned memory;
and while a graph is recorded, every copy to the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import shutil
import subprocess
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastsi import _ext
from fastsi.engine import model_runner, pipeline
from fastsi.engine.staging import Array
from fastsi.ops import _registry
from tests.support.tiny_models import BYTE_VOCAB, default_dtype, make_config

_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>);
}
"""
"""What torch itself registers for fake tensors where it was built with CUDA and finds no GPU."""
_COPIES = ("aten.copy_.", "aten._to_copy.")


class Waits(AssertionError):
    """The host would wait for the device."""


class FakeGraph:
    """Stands for a recorded graph: there are no values that a replay would change."""

    recorded = False

    def replay(self) -> None:
        assert self.recorded


class FakeStream:
    """Stands for a stream, and for an event in one: everything happens at once."""

    cuda_stream = 0

    def __init__(self, **_: Any) -> None:
        pass

    def wait_stream(self, _: FakeStream) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, _: FakeStream) -> float:
        return 1.0


class FakeGpu(TorchDispatchMode):
    """While active, ``device="cuda"`` is the fake GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        """Kernels by name, and products of matrices as ``"product"``."""
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._pinned: dict[int, torch.Tensor] = {}
        """By address; held, so that no other memory is ever found there."""
        self._strict = self._recording = False

    @contextlib.contextmanager
    def strict(self, on: bool = True) -> Iterator[None]:
        """Context in which the host must not wait; or, within it, may again."""
        before, self._strict = self._strict, on
        try:
            yield
        finally:
            self._strict = before

    @contextlib.contextmanager
    def record(self, graph: FakeGraph, **_: Any) -> Iterator[None]:
        """Stands for ``torch.cuda.graph``: what comes from the host would be the same for ever."""
        self._recording = True
        try:
            with self.strict():
                yield
        finally:
            self._recording, graph.recorded = False, True

    def model(self, family: str, seed: int, dtype: torch.dtype) -> Any:
        """A small model on the GPU."""
        from transformers import AutoModelForCausalLM

        config = make_config(family, seed, vocab_size=BYTE_VOCAB)
        with self._fake, default_dtype(dtype), torch.device("cuda"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), str(func)
        pinned = kwargs.pop("pin_memory", None)
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        host = [one for one in tensors if not isinstance(one, FakeTensor)]
        here = torch.device(kwargs.get("device") or "cpu").type == "cuda"
        if len(host) == len(tensors) and not here:
            made = func(*args, **kwargs)
            if pinned:
                self._pinned[made.untyped_storage().data_ptr()] = made
            return made
        if self._strict and host:
            self._check_sent(name, host, args, kwargs)
        try:
            with self._fake:
                made = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            if self._strict:
                raise Waits(f"{name} reads a value") from error
            return 1  # any answer does where waiting is allowed
        return self._arrived(name, made)

    def _check_sent(self, name: str, host: Any, args: Any, kwargs: Any) -> None:
        """A copy from the host must neither wait itself nor make the device's queue wait."""
        pinned = all(one.untyped_storage().data_ptr() in self._pinned for one in host)
        given = args[2:] if name.startswith("aten.copy_") else ()
        asynchronous = kwargs.get("non_blocking", any(given))
        if self._recording or not (name.startswith(_COPIES) and pinned and asynchronous):
            shapes = [tuple(one.shape) for one in host]
            raise Waits(f"{name} takes {shapes} from the host, not by a copy of pinned memory")

    def _arrived(self, name: str, made: Any) -> Any:
        if name.startswith(("aten.mm.", "aten.addmm.", "aten.bmm.")):
            self.launches["product"] += 1
        if not (isinstance(made, FakeTensor) and made.device.type == "cpu"):
            return made
        if self._strict:
            raise Waits(f"{name} brings {tuple(made.shape)} to the host")
        return torch.zeros(made.shape, dtype=made.dtype)


class _Readback:
    """Stands for `staging.Readback`, where waiting is right: gives some tokens, and no hits."""

    count = 0

    def __init__(self, *tensors: torch.Tensor) -> None:
        assert all(one.is_cuda for one in tensors)
        self._like = [(tuple(one.shape), one.dtype) for one in tensors]

    def wait(self) -> list[Array]:
        _Readback.count += 1
        made: list[Array] = []
        for shape, dtype in self._like:
            some = np.arange(np.prod(shape, dtype=int)) + 31 * _Readback.count
            value = some % BYTE_VOCAB if dtype == torch.int64 else 0 * some
            made.append(value.reshape(shape).astype(np.float32 if dtype.is_floating_point else int))
        return made


def register_guard(folder: Path) -> None:
    """Let torch switch to a device that is not there; skips where that cannot be compiled."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on PATH")
    root = Path(torch.__file__).parent
    source, library = folder / "guard.cc", folder / "guard.so"
    source.write_text(_GUARD)
    command = ["g++", "-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", str(source)]
    command += [f"-L{root / 'lib'}", "-lc10", "-o", str(library)]
    subprocess.run(command, check=True, timeout=300)
    ctypes.CDLL(str(library))


@contextlib.contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """The fake GPU in place of one that torch would look for; `register_guard` comes first."""
    gpu = FakeGpu()

    def count(name: str) -> Any:
        return lambda *_, **__: gpu.launches.update([name])

    interpreter = importlib.import_module("triton.runtime.interpreter")
    monkeypatch.setattr(
        interpreter.InterpretedFunction, "run", lambda self, *_, **__: count(self.fn.__name__)()
    )
    for name, value in {
        "_lazy_init": None,
        "current_device": 0,
        "get_device_capability": (9, 0),
        "mem_get_info": (70 << 30, 80 << 30),
        "current_stream": FakeStream(),
        "synchronize": None,
        "empty_cache": None,
        "graph_pool_handle": (0, 0),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    for name, kind in {
        "CUDAGraph": FakeGraph,
        "Stream": FakeStream,
        "Event": FakeStream,
        "stream": contextlib.nullcontext,
    }.items():
        monkeypatch.setattr(torch.cuda, name, kind)
    monkeypatch.setattr(torch.cuda, "graph", gpu.record)
    kernels = types.SimpleNamespace(match_stop=count("match_stop"))
    load = _ext.load
    monkeypatch.setattr(
        _ext, "load", lambda name: (kernels, None) if name == "_C_cuda" else load(name)
    )
    monkeypatch.setattr(importlib.import_module("fastsi.ops.match_stop._cuda"), "view", id)
    monkeypatch.setattr(pipeline, "Readback", _Readback)
    monkeypatch.setattr(model_runner, "disagreement", lambda *_: None)
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") copies, as it does
    _registry._chosen.cache_clear()
    try:
        with gpu:
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        _registry._chosen.cache_clear()
