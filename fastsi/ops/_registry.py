"""Which code runs an op: one table of (op, backend) rows, read by `choose` and `explain`.

A row is data. Its module is imported when the row is first chosen, so importing fastsi never needs
a compiler's output, Triton or CUDA. ``backend="auto"`` takes the first row, in table order, that
can serve the tensors; an explicit name, or ``FASTSI_BACKEND``, must work or raises with every
backend's reason. Decisions are cached by `Facts`, because an op is called once per layer and step.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from fastsi import _ext, env
from fastsi.errors import BackendUnavailable
from fastsi.types import check_known

OPS = (
    "segment_attention",
    "merge_states",
    "kv_write",
    "sample_tokens",
    "top_logprobs",
    "linear",
    "norm_rope_act",
    "vote_answers",
    "match_stop",
    "advance_rows",
    "token_logprob",
)
FUNCTIONS = {
    "norm_rope_act": ("rms_norm", "rope_kv_write", "act_mul"),
    "match_stop": ("match_stop", "first_answer"),
}
"""Public functions of the ops that have several; every backend of the op has them all."""
BACKENDS = tuple(name for name in env.BACKEND.choices or () if name != "auto")

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SHORT_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_INTS = (torch.int32, torch.int64)
_WITH_CACHE = ("segment_attention", "kv_write", "norm_rope_act")


class Facts(NamedTuple):
    """What a decision may depend on; it is also the cache key."""

    device: str
    dtype: torch.dtype
    grad: bool = False
    """Whether a gradient must flow through the result."""
    int8_cache: bool = False
    """Whether keys and values are kept in int8."""


def facts(*tensors: torch.Tensor) -> Facts:
    """Facts of a call: device and dtype of the first tensor, gradients and caches of all."""
    first = tensors[0]
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    int8_cache = any(t.dtype == torch.int8 for t in tensors)
    return Facts(first.device.type, first.dtype, grad, int8_cache)


def _anything(facts: Facts) -> str | None:
    return None


def _no_gradient(facts: Facts) -> str | None:
    return "has no backward pass and a gradient is asked for" if facts.grad else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One backend of one op."""

    op: str
    backend: str
    module: str
    """Dotted path; the module defines a function named as the op, or those of `FUNCTIONS`."""
    devices: tuple[str, ...] | None
    """Device types; None: any."""
    dtypes: tuple[torch.dtype, ...]
    """Types of the first tensor."""
    extension: str | None = None
    """Compiled module that must be importable."""
    supports: Callable[[Facts], str | None] = _anything
    """The reason for a no, or None."""
    int8_cache: bool = False
    """Whether it serves keys and values that are kept in int8; those are of float32 rows."""

    def refusal(self, facts: Facts) -> str | None:
        """Why this row cannot serve the call, or None if it can."""
        if self.extension is not None and _ext.load(self.extension)[0] is None:
            return _ext.load(self.extension)[1]
        if self.devices is not None and facts.device not in self.devices:
            return f"runs on {', '.join(self.devices)}, the tensors are on {facts.device}"
        if facts.dtype not in self.dtypes:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes)
            return f"takes {names}, not {str(facts.dtype).removeprefix('torch.')}"
        if facts.int8_cache and not self.int8_cache:
            return "has no int8 cache"
        if facts.int8_cache and facts.dtype != torch.float32:
            return f"keeps float32 in int8 caches, not {str(facts.dtype).removeprefix('torch.')}"
        return self.supports(facts)


def _triton_is_there(facts: Facts) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if facts.device == "cpu" and not interpreting():
        return "runs on CPU tensors only in Triton's interpreter (TRITON_INTERPRET=1)"
    return None


def _triton_runs(facts: Facts) -> str | None:
    return _triton_is_there(facts) or _no_gradient(facts)


def interpreting() -> bool:
    """Whether Triton kernels run in the interpreter, for tests without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton(op: str, dtypes: tuple[torch.dtype, ...], **more: Any) -> Row:
    """A Triton row; CPU tensors reach it by name alone."""
    return Row(
        op=op,
        backend="triton",
        module=f"fastsi.ops.{op}._triton",
        devices=("cuda", "cpu"),
        dtypes=dtypes,
        **({"supports": _triton_runs} | more),
    )


def _cuda(op: str, module: str, dtypes: tuple[torch.dtype, ...], **more: Any) -> Row:
    """A row of a GPU without Triton: kernels of csrc/cuda, or of torch's libraries."""
    return Row(
        op=op,
        backend="cuda",
        module=f"fastsi.ops.{op}.{module}",
        devices=("cuda",),
        dtypes=dtypes,
        **more,
    )


def _rows(
    op: str,
    dtypes: tuple[torch.dtype, ...],
    reference_dtypes: tuple[torch.dtype, ...] = _FLOATS,
    **more: Any,
) -> tuple[Row, ...]:
    """Rows of the CPU, where ``more`` overrides fields, and of the reference."""
    folder = f"fastsi.ops.{op}"
    int8_cache = op in _WITH_CACHE
    compiled: dict[str, Any] = {
        "extension": "_C",
        "supports": _no_gradient,
        "int8_cache": int8_cache,
    } | more
    return (
        Row(
            op=op,
            backend="cpu",
            module=f"{folder}._cpu",
            devices=("cpu",),
            dtypes=dtypes,
            **compiled,
        ),
        Row(
            op=op,
            backend="reference",
            module=f"{folder}.reference",
            devices=None,
            dtypes=reference_dtypes,
            int8_cache=int8_cache,
        ),
    )


TABLE: tuple[Row, ...] = (
    _triton("segment_attention", _SHORT_FLOATS),
    *_rows("segment_attention", _FLOATS),
    _triton("merge_states", _SHORT_FLOATS),
    *_rows("merge_states", _FLOATS),
    _triton("kv_write", _FLOATS),
    *_rows("kv_write", _FLOATS),
    _triton("sample_tokens", _FLOATS),
    *_rows("sample_tokens", _FLOATS),
    _cuda("top_logprobs", "_topk", _FLOATS, supports=_no_gradient),
    *_rows("top_logprobs", _FLOATS),
    _cuda("linear", "_cublas", _FLOATS, supports=_no_gradient),
    _triton("linear", (torch.float32, torch.bfloat16, torch.float16)),
    *_rows("linear", (torch.float32,)),
    _triton("norm_rope_act", _FLOATS),
    *_rows("norm_rope_act", _FLOATS),
    _cuda("vote_answers", "_cuda", _INTS, extension="_C_cuda"),
    *_rows("vote_answers", _INTS, _INTS),
    _cuda("match_stop", "_cuda", (torch.int64,), extension="_C_cuda"),
    *_rows("match_stop", (torch.int64,), (torch.int64,)),
    _triton("advance_rows", (torch.int64,), supports=_triton_is_there),
    *_rows("advance_rows", (torch.int64,), (torch.int64,)),
    _triton("token_logprob", _SHORT_FLOATS, supports=_triton_is_there),
    *_rows("token_logprob", _FLOATS, extension=None, supports=_anything),
)
"""In order of preference within an op."""
_BACKEND_OF = {row.module: row.backend for row in TABLE}


def choose(
    op: str, facts: Facts, backend: str = "auto", function: str | None = None
) -> Callable[..., Any]:
    """The function that runs ``op`` (or its part ``function``) for a call with these facts.

    Raises:
        BackendUnavailable: the requested backend (or every backend) cannot serve the call.
        ConfigError: no backend has the requested name.
    """
    asked = env.get(env.BACKEND) if backend == "auto" else backend
    return _chosen(op, facts, asked, function or op)


def chosen_backend(op: str, *tensors: torch.Tensor, backend: str = "auto") -> str:
    """Name of the backend that a call of ``op`` with these tensors would use, as `choose`."""
    return _backend_for(op, facts(*tensors), backend)


def all_run_on(backend: str, ops: Iterable[str], *tensors: torch.Tensor) -> bool:
    """Whether calls of all these ops with these tensors would use that backend."""
    seen = facts(*tensors)
    return all(_backend_for(op, seen, "auto") == backend for op in ops)


def _backend_for(op: str, facts: Facts, backend: str) -> str:
    function = FUNCTIONS.get(op, (op,))[0]
    return _BACKEND_OF[choose(op, facts, backend, function).__module__]


@functools.cache
def _chosen(op: str, facts: Facts, asked: str, name: str) -> Callable[..., Any]:
    row, _ = _decide(op, facts, asked)
    if row is None:
        raise BackendUnavailable(describe(op, facts, asked))
    if row.backend == "reference" and facts.device == "cuda" and asked == "auto":
        _warn_slow(op)
    function: Callable[..., Any] = getattr(importlib.import_module(row.module), name)
    return function


@functools.cache
def _warn_slow(op: str) -> None:
    warnings.warn(
        f"{op} runs on its plain torch reference: no CUDA backend is built; results are right, "
        f"speed is not",
        RuntimeWarning,
        stacklevel=5,
    )


def _decide(op: str, facts: Facts, asked: str) -> tuple[Row | None, dict[str, str | None]]:
    """The row to use, and per backend why not (None: it could serve the call)."""
    check_known([op], OPS, "op")
    check_known([asked], ("auto", *BACKENDS), "backend")
    reasons: dict[str, str | None] = {}
    chosen = None
    for row in TABLE:
        if row.op != op:
            continue
        reasons[row.backend] = row.refusal(facts)
        by_name = facts.device == "cpu" and row.backend == "triton"  # the interpreter is slow
        wanted = asked == row.backend or (asked == "auto" and not by_name)
        if chosen is None and reasons[row.backend] is None and wanted:
            chosen = row
    for backend in BACKENDS:
        reasons.setdefault(backend, f"{op} has no {backend} backend")
    return chosen, reasons


def describe(op: str, facts: Facts, asked: str) -> str:
    """The decision for these facts as text, one backend per line."""
    chosen, reasons = _decide(op, facts, asked)
    dtype = str(facts.dtype).removeprefix("torch.")
    outcome = f"uses {chosen.backend}" if chosen else f"backend {asked!r} cannot run"
    lines = [f"{op} on {facts.device} {dtype} (asked: {asked}): {outcome}"]
    lines += [f"  {backend}: {reason or 'can run'}" for backend, reason in reasons.items()]
    return "\n".join(lines)


def explain(op: str, *tensors: torch.Tensor, backend: str = "auto") -> str:
    """Which backend ``op`` uses for these tensors, and why not the others.

    Args:
        op: name of the op, such as ``"segment_attention"``.
        tensors: the call's tensors, first argument first; none means float32 on the CPU.
        backend: as in the call; "auto" follows ``FASTSI_BACKEND``.

    Raises:
        ConfigError: no such op or backend.
    """
    asked = env.get(env.BACKEND) if backend == "auto" else backend
    return describe(op, facts(*tensors) if tensors else Facts("cpu", torch.float32), asked)
