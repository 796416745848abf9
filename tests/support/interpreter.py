"""Triton's interpreter, mended where it computes other numbers than the compiler.

Triton 3.6 and 3.7 cut float32 off to bfloat16 where a GPU rounds to nearest even, and take the bits
of bfloat16 operands of a product for integers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16."""
    rounded = torch.from_numpy(np.array(values, dtype=np.float32)).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().view(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The float32 of these bits."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


@functools.cache
def mend() -> None:
    """Make bfloat16 in the interpreter what it is on a GPU; once per process."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        pair = (src.dtype.scalar, dst_type.scalar)
        if pair == (tl.float32, tl.bfloat16):
            return TensorHandle(to_bfloat16(src.data), dst_type.scalar)
        if pair == (tl.bfloat16, tl.float32):
            return TensorHandle(from_bfloat16(src.data), dst_type.scalar)
        return cast(self, src, dst_type)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        wide = [
            TensorHandle(from_bfloat16(one.data), tl.float32)
            if one.dtype.scalar == tl.bfloat16
            else one
            for one in (a, b)
        ]
        return dot(self, *wide, *others)

    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.create_dot = create_dot


@contextlib.contextmanager
def products_in_order() -> Iterator[None]:
    """Sum the products of a dot one by one, as a tensor core adds in one order for every element.

    numpy's library of matrix products has other orders at the edges of its own tiles.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    mend()
    before = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *others: Any) -> Any:
        left, right = (
            from_bfloat16(one.data) if one.dtype.scalar.is_bf16() else one.data.astype(np.float32)
            for one in (a, b)
        )
        total = d.data.copy()
        for k in range(left.shape[-1]):
            total += left[:, k, None] * right[None, k, :]
        return TensorHandle(total, d.dtype.scalar)

    InterpreterBuilder.create_dot = create_dot
    try:
        yield
    finally:
        InterpreterBuilder.create_dot = before
