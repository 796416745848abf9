"""Paged storage for keys and values, with a reference count per page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

import numpy as np
import torch

from fastsi.engine.config import KVDtype
from fastsi.errors import ConfigError
from fastsi.ops._memory import reserve
from fastsi.types import check_known


class LayerShape(NamedTuple):
    """Size of one layer's cache entry for one token."""

    kv_heads: int
    head_dim: int


def bytes_per_token(layers: Sequence[LayerShape], dtype: torch.dtype) -> int:
    """Of keys, values and, in int8, their scales."""
    numbers = sum(2 * layer.kv_heads * layer.head_dim for layer in layers)
    scales = sum(2 * layer.kv_heads for layer in layers) if dtype == torch.int8 else 0
    return numbers * dtype.itemsize + scales * torch.float32.itemsize


def cache_dtype(name: KVDtype, weights: torch.dtype, device: torch.device) -> torch.dtype:
    """The type of the cache of a model whose weights are ``weights`` on ``device``.

    Raises:
        ConfigError: there is no such type, or no kernel reads it beside these weights.
    """
    check_known([name], get_args(KVDtype), "kv_dtype")
    if name == "auto":
        return weights
    wanted: torch.dtype = getattr(torch, name)
    on_cpu = device.type == "cpu"
    # Rows are float32, which every type of cache serves.
    wide = weights == torch.float32 or (on_cpu and weights == torch.bfloat16)
    if wanted == torch.int8 and not (on_cpu and wide):
        raise ConfigError(
            f"kv_dtype={name!r}: the weights are {weights} on {device}; only float32 and bfloat16 "
            f"on a CPU have an int8 cache, so load the model so or leave kv_dtype at 'auto'"
        )
    if wanted != weights and not wide:
        raise ConfigError(
            f"kv_dtype={name!r}: the weights are {weights}, whose keys and values are kept in that "
            f"type; bfloat16 also serves float32"
        )
    return wanted


class KVPool:
    """Keys and values of all layers in pages of ``page_size`` tokens.

    Layer l keeps ``k[l]`` and ``v[l]``, each [pages, kv_heads, page_size, head_dim], so the tokens
    of a page are contiguous for a head; in int8 also ``k_scales[l]`` and ``v_scales[l]``, float32
    [pages, kv_heads, page_size], lists that are empty for other types. A page belongs to one
    prefix-tree node or one path; a radix split that falls inside a page gives it two owners, hence
    the reference counts. Page ids are the same in every layer.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_pages, self.page_size = num_pages, page_size

        def cache(layer: LayerShape) -> torch.Tensor:
            shape = (num_pages, layer.kv_heads, page_size, layer.head_dim)
            return reserve(shape, dtype, device)

        def scales(layer: LayerShape) -> torch.Tensor:
            return reserve((num_pages, layer.kv_heads, page_size), torch.float32, device)

        self.k = [cache(layer) for layer in layers]
        self.v = [cache(layer) for layer in layers]
        scaled = layers if dtype == torch.int8 else ()
        self.k_scales = [scales(layer) for layer in scaled]
        self.v_scales = [scales(layer) for layer in scaled]
        self.bytes_per_token = bytes_per_token(layers, dtype)
        self._references = np.zeros(num_pages, dtype=np.int32)
        # Last in, first out: recently freed pages are still warm in the CPU's caches.
        self._free = list(range(num_pages - 1, -1, -1))
        self.peak_used = 0

    @property
    def num_free(self) -> int:
        """Pages without an owner."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` free pages; the caller has made sure that there are as many."""
        assert count <= len(self._free), f"{count} pages asked of {len(self._free)}"
        if count == 0:
            return []
        pages = self._free[-count:][::-1]
        del self._free[-count:]
        self._references[pages] = 1
        self.peak_used = max(self.peak_used, self.num_pages - len(self._free))
        return pages

    def share(self, page: int) -> None:
        """Give ``page`` one more owner."""
        assert self._references[page] > 0
        self._references[page] += 1

    def owners(self, page: int) -> int:
        """How many own ``page``; 0 for a free one."""
        return int(self._references[page])

    def release(self, pages: Iterable[int]) -> None:
        """Take one owner from each page; a page without owners is free again."""
        references, free = self._references, self._free
        for page in pages:
            references[page] -= 1
            assert references[page] >= 0, f"page {page} released twice"
            if references[page] == 0:
                free.append(page)

    def check(self, owners: Iterable[Iterable[int]]) -> None:
        """Raise unless the reference counts are exactly those of ``owners`` (for tests)."""
        count = np.zeros(self.num_pages, dtype=np.int32)
        for pages in owners:
            for page in pages:
                count[page] += 1
        if not np.array_equal(count, self._references):
            differ = np.flatnonzero(count != self._references)
            raise AssertionError(f"reference counts differ on pages {differ.tolist()}")
        if sorted(self._free) != np.flatnonzero(count == 0).tolist():
            raise AssertionError("the free list is not the set of pages without owners")
