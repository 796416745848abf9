"""Parameters that have given up their memory to a packed copy, and say so when read.

A released parameter is the object it was, with its shape, dtype, device and ``requires_grad``; its
data is one NaN seen at every index (strides 0), so code that reaches around `Released` computes
NaN, never stale numbers. As torch's own ``UninitializedParameter`` does, the class changes in place
and refuses every operation that is not about the shape.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fastsi.errors import ConfigError, ModelError

_PROPERTIES = (
    "shape dtype device layout requires_grad grad is_leaf grad_fn is_cuda is_meta is_sparse "
    "is_quantized is_nested ndim nbytes itemsize _version"
)
_METHODS = (
    "__hash__ __len__ dim size stride numel nelement element_size is_floating_point is_complex "
    "is_contiguous requires_grad_ untyped_storage"
)


def _about_shape() -> frozenset[Any]:
    found: set[Any] = {getattr(torch.Tensor, name) for name in _METHODS.split()}
    found |= {getattr(torch.Tensor, name).__get__ for name in _PROPERTIES.split()}
    found |= {getattr(torch.Tensor, name).__set__ for name in ("requires_grad", "grad")}
    return frozenset(found | {torch.is_floating_point, torch.is_complex, torch.numel})


_ABOUT_SHAPE = _about_shape()


class Released(nn.Parameter):
    """A parameter without values; ``detach`` gives the same, so a ``state_dict`` lists it."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Released(shape={list(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Released:
        raise _no_values(self)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise _no_values(self)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer questions about the shape, refuse everything else.

        Raises:
            ModelError: the values would be read or written.
        """
        if func is torch.Tensor.detach:
            return args[0]
        if func not in _ABOUT_SHAPE:
            raise _no_values(next((arg for arg in args if isinstance(arg, Released)), None))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _no_values(parameter: torch.Tensor | None) -> ModelError:
    shape = "" if parameter is None else f" {list(parameter.shape)}"
    return ModelError(
        f"a weight{shape} of the model has no values: LLM(release_weights=True) keeps only its "
        f"packed copy; call LLM.restore_weights() before the model is trained, saved or run "
        f"outside the engine"
    )


def is_released(tensor: object) -> bool:
    """Whether this is a parameter without values."""
    return type(tensor) is Released


def release(parameter: nn.Parameter) -> None:
    """Give up the memory of a plain parameter; tensors that share it keep it alive."""
    nothing = torch.full((), float("nan"), dtype=parameter.dtype, device=parameter.device)
    parameter.data = nothing.expand(parameter.shape)
    parameter.__class__ = Released


def restore(parameter: nn.Parameter, values: torch.Tensor) -> None:
    """Let ``values``, of its shape and dtype, be the memory of a released parameter."""
    parameter.__class__ = nn.Parameter
    parameter.data = values


class Watch:
    """Which parameters have been read."""

    def __init__(self) -> None:
        self.read: set[int] = set()
        """``id`` of each."""
        self._on = True

    def note(self, arguments: Iterable[Any]) -> None:
        """Take note of the arguments of an operation, sequences of tensors among them."""
        for each in arguments if self._on else ():
            if isinstance(each, nn.Parameter):
                self.read.add(id(each))
            elif isinstance(each, tuple | list):
                self.note(each)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take no note in the block."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before


@contextmanager
def watched(parameters: Collection[nn.Parameter]) -> Iterator[Watch]:
    """Take note of which of these plain parameters are read in the block."""
    watch = Watch()

    class Watched(nn.Parameter):
        @classmethod
        def __torch_function__(
            cls,
            func: Callable[..., Any],
            types: Collection[type],
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            if func not in _ABOUT_SHAPE:
                watch.note((*args, *(kwargs or {}).values()))
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))

    try:
        for parameter in parameters:
            parameter.__class__ = Watched
        yield watch
    finally:
        for parameter in parameters:
            parameter.__class__ = nn.Parameter


def releasable(model: nn.Module, parameters: Iterable[nn.Parameter]) -> frozenset[int]:
    """``id`` of those of ``parameters`` that only one module of the model holds, tied ones out."""
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    return frozenset(id(p) for p in parameters if type(p) is nn.Parameter and uses[id(p)] == 1)


def refuse_if_released(model: nn.Module, change: str) -> None:
    """Refuse a change after which how to run the model would have to be settled anew.

    Raises:
        ConfigError: it has released parameters, so that its own forward cannot be compared with.
    """
    if any(map(is_released, model.parameters())):
        raise ConfigError(
            f"release_weights=True: {change}, and how to run the model cannot be settled anew "
            f"without its weights; undo the change, or call restore_weights() first"
        )


def let_memory_go(model: nn.Module) -> None:
    """Free what stands in the way of the memory of released parameters, if there are any."""
    if any(map(is_released, model.parameters())):
        _leave_foreign_memory(model)
        return_freed_memory()


def _leave_foreign_memory(model: nn.Module) -> None:
    """Copy what lies in memory that torch did not allocate for it alone, shared memory excepted.

    Tensors of a checkpoint in the model's dtype are views of the mapped file, and the last of them
    keeps all its pages.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if is_released(tensor):
            continue
        memory = tensor.untyped_storage()
        foreign = memory.nbytes() > tensor.nbytes or not memory.resizable()
        if foreign and not memory.is_shared():
            tensor.data = tensor.detach().clone()


def return_freed_memory() -> None:
    """Let the allocator of the C library give the system what it keeps for later, where it can.

    Of 200 MB in weights of 1 to 4 MB glibc kept 50.
    """
    with contextlib.suppress(AttributeError, OSError):  # a glibc function
        ctypes.CDLL(None).malloc_trim(0)
