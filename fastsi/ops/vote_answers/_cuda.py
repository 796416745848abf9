"""CUDA backend of `vote_answers`: keys on the device, exact sums and entropies on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fastsi import _ext
from fastsi.ops._view import view
from fastsi.ops.token_bytes import TokenBytes
from fastsi.ops.vote_answers import _cpu
from fastsi.ops.vote_answers.result import AnswerVotes, VoteOptions

KEY, HOST = 1, 2
"""Status of a path; 0: it abstains."""
_MAX_BYTES = 1 << 16
"""Longest text that the device reads; longer ones are left to the host."""
_MAX_WARPS = 2048
_WARPS_PER_BLOCK = 4


@dataclass(frozen=True, slots=True)
class PathKeys:
    """What the kernel says of N paths."""

    status: torch.Tensor
    """uint8 [N]: 0, `KEY` or `HOST`."""
    kind: torch.Tensor
    """uint8 [N]: of the key, as ``_C.device_key_name`` takes it."""
    numerator: torch.Tensor
    """int64 [N]."""
    denominator: torch.Tensor
    """int64 [N]."""


def vote_answers(
    tokens: torch.Tensor,
    path_indptr: torch.Tensor,
    group_indptr: torch.Tensor,
    table: TokenBytes,
    answer_key: Callable[[str], str | None],
    options: VoteOptions,
    logprobs: torch.Tensor | None,
    weights: torch.Tensor | None,
) -> AnswerVotes:
    """See `fastsi.ops.vote_answers`. The result is on the CPU."""
    group_indptr = group_indptr.cpu()
    logprobs, weights = (None if v is None else v.cpu() for v in (logprobs, weights))
    defaults = VoteOptions(min_lead=options.min_lead, min_share=options.min_share)
    if options != defaults:  # the kernel knows the default rules of extraction alone
        on_host = (tokens.cpu(), path_indptr.cpu(), group_indptr, table, answer_key)
        return _cpu.vote_answers(*on_host, options, logprobs, weights)
    found = read_keys(tokens.contiguous(), path_indptr.contiguous(), table)
    left = (found.status == HOST).nonzero()[:, 0].cpu().tolist()
    texts = _texts(tokens, path_indptr, left, table)
    keys, key_id = merge_keys(found, {path: answer_key(text) for path, text in texts.items()})
    return _cpu._tally(keys, key_id, group_indptr, options, logprobs, weights)


def read_keys(tokens: torch.Tensor, path_indptr: torch.Tensor, table: TokenBytes) -> PathKeys:
    """Keys of all paths that the kernel decides.

    Raises:
        ValueError: a token is not in the table.
    """
    core, reason = _ext.load("_C_cuda")
    if core is None:
        raise ImportError(reason)
    device, paths = tokens.device, path_indptr.shape[0] - 1
    blocks = max(1, min(-(-paths // _WARPS_PER_BLOCK), _MAX_WARPS // _WARPS_PER_BLOCK))
    scratch = torch.empty((blocks * _WARPS_PER_BLOCK, _MAX_BYTES), dtype=torch.uint8, device=device)
    status, kind = (torch.empty(paths, dtype=torch.uint8, device=device) for _ in range(2))
    top, bottom = (torch.empty(paths, dtype=torch.int64, device=device) for _ in range(2))
    bad = torch.full((1,), tokens.shape[0], dtype=torch.int64, device=device)
    spelled = [part.to(device) for part in (table.data, table.offsets, table.flags)]
    with torch.cuda.device(device):
        core.read_path_keys(
            view(tokens),
            view(path_indptr),
            [view(part) for part in spelled],
            table.strip_first_blank,
            view(scratch),
            [view(part) for part in (status, kind, top, bottom, bad)],
            torch.cuda.current_stream(device).cuda_stream,
        )
    first_bad = int(bad)
    if first_bad < tokens.shape[0]:
        token = int(tokens[first_bad])
        raise ValueError(f"tokens: {token} is not a token id, must be in [0, {table.size})")
    return PathKeys(status, kind, top, bottom)


def merge_keys(found: PathKeys, left: dict[int, str | None]) -> tuple[list[str], torch.Tensor]:
    """The distinct keys, in order of their first path, and int32 [N]: each path's, or -1.

    ``left`` holds the key of every path that the kernel left to the host.
    """
    decided = found.status == KEY
    columns = torch.stack([found.kind.long(), found.numerator, found.denominator], dim=1)
    rows, inverse = torch.unique(columns[decided], dim=0, return_inverse=True)
    key_id = torch.full(found.status.shape, -1, dtype=torch.int32)
    key_id[decided.cpu()] = inverse.int().cpu()
    name = _ext.core().device_key_name
    keys = [str(name(*row)) for row in rows.tolist()]
    return _cpu._add_keys(keys, key_id, left), key_id


def _texts(
    tokens: torch.Tensor, path_indptr: torch.Tensor, paths: list[int], table: TokenBytes
) -> dict[int, str]:
    """Texts of some paths, decoded on the host."""
    if not paths:
        return {}
    bounds = path_indptr.tolist()
    return {path: table.decode(tokens[bounds[path] : bounds[path + 1]].tolist()) for path in paths}
