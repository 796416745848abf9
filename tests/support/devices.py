"""Calls on tensors of the CPU, made where the code under test runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch


def call_on(device: torch.device, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)`` with every tensor moved to ``device``; writes come back.

    Tensors keep their strides and go on sharing memory with each other. A result that is an
    argument is that argument, other results are moved to the CPU. Tuples and dataclasses of tensors
    are looked into, one level deep.
    """
    if device.type == "cpu":
        return function(*args, **kwargs)
    return Visit(device).call(function, args, kwargs)


class Visit:
    """One call's tensors on another device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._storages: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._origin: dict[int, torch.Tensor] = {}

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `call_on`."""
        moved = [self._there(value) for value in args]
        named = {name: self._there(value) for name, value in kwargs.items()}
        result = function(*moved, **named)
        for here, there in self._storages.values():
            here.copy_(there)
        return self._here(result)

    def _there(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._there(one) for one in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            changed = {k: self._there(v) for k, v in fields.items() if isinstance(v, torch.Tensor)}
            return dataclasses.replace(value, **changed)
        if not isinstance(value, torch.Tensor) or value.device == self._device:
            return value
        storage = value.untyped_storage()
        if storage.data_ptr() not in self._storages:
            here = torch.empty(0, dtype=torch.uint8).set_(storage)
            there = torch.empty(len(here), dtype=torch.uint8, device=self._device).copy_(here)
            self._storages[storage.data_ptr()] = here, there
        there = self._storages[storage.data_ptr()][1]
        made = torch.empty(0, dtype=value.dtype, device=self._device).set_(
            there.untyped_storage(), value.storage_offset(), value.shape, value.stride()
        )
        self._origin[id(made)] = value
        return made

    def _here(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._here(one) for one in value)
        if not isinstance(value, torch.Tensor):
            return value
        return self._origin.get(id(value), value.cpu())
