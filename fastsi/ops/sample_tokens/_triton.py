"""Triton backend of `sample_tokens`: one pass over the logits, then one program per row.

`_scan` splits every row over programs of `TILE` tokens; each leaves the maximum and the sum of
weights of its blocks of `BLOCK` tokens, at the row's temperature and, where raw log-probs are
wanted, at 1. `_finish` brings these sums to the row's maximum, finds the
block that holds u * total and reads that block alone. For a truncated row it gathers the few tokens
that can pass, in vocabulary order, finds the edges of top-k and top-p by bisection over the order
of floating-point numbers, and draws among what is left; nothing is sorted. Which of these a row
needs is decided on the device, every launch has the same shape, and no call waits for the device,
so the op can be captured in a CUDA graph.
"""

from __future__ import annotations

import dataclasses

import torch
import triton

from fastsi.ops._checks import accumulate_dtype
from fastsi.ops._launch import on_device, rows_dense
from fastsi.ops._triton_variants import Variant
from fastsi.ops.sample_tokens._triton_kernels import _adjust, _finish, _scan
from fastsi.ops.sample_tokens.params import LogitAdjust, SampledTokens, SampleParams

BLOCK = 1024  # tokens whose weights share one sum; `_scan` relies on at most 1024
TILE = 4096  # tokens per program of `_scan`
REGISTERS = 128  # per thread of `_finish`; without a bound the compiler spills to save registers
STEP = 2048  # tokens, or candidates, that `_finish` looks at together; more would spill registers
CANDIDATES = 8192  # gathered tokens per row; a row with more reads its logits again and again
_KEY_BITS = {torch.bfloat16: 16, torch.float16: 19, torch.float32: 32, torch.float64: 64}
"""Leading bits that tell two values of a type apart once they are float32 (float64: itself)."""


def sample_tokens(
    logits: torch.Tensor,
    params: SampleParams,
    row_index: torch.Tensor | None,
    adjust: LogitAdjust | None,
    raw: bool = False,
    *,
    candidates: int = CANDIDATES,
) -> SampledTokens:
    """See `fastsi.ops.sample_tokens`; a row without a usable logit, or whose ``row_index`` lies
    outside the logits, gets token -1, and an adjusted token outside the vocabulary is skipped.

    ``candidates`` bounds how many are gathered per row; tests make it small.
    """
    logits = given = rows_dense(logits)
    sources, vocab = logits.shape
    rows, device, dtype = params.num_rows, logits.device, accumulate_dtype(logits.dtype)
    drawn = SampledTokens(
        token=torch.empty(rows, dtype=torch.int64, device=device),
        logprob=torch.empty(rows, dtype=dtype, device=device),
        logprob_full=torch.empty(rows, dtype=dtype, device=device),
        kept_mass=torch.empty(rows, dtype=dtype, device=device),
        logprob_raw=torch.empty(rows, dtype=dtype, device=device) if raw else None,
    )
    if rows == 0:
        return drawn
    if sources == 0:
        drawn.token.fill_(-1)
        return drawn
    if adjust is not None:
        logits = _adjusted(logits, row_index, adjust, dtype)
    index = None if row_index is None else row_index.contiguous()
    blocks = triton.cdiv(vocab, BLOCK)
    per_block = (rows, blocks)
    block_max = torch.empty(per_block, dtype=dtype, device=device)
    block_sum = torch.empty(per_block, dtype=torch.float64, device=device)
    # Adjusted logits are not the given ones, whose sums take a draw of their own.
    in_pass = raw and adjust is None
    block_raw = torch.empty_like(block_sum) if in_pass else block_sum
    temperature = params.temperature.contiguous()
    # A copy that was adjusted has a row of its own for every row of the draw.
    shape = (sources, logits.stride(0), vocab, blocks)
    modes = {"INDEXED": index is not None, "COPIED": adjust is not None}
    with on_device(logits):
        _scan[(triton.cdiv(vocab, TILE), rows)](
            logits,
            index if index is not None else block_sum,
            temperature,
            block_max,
            block_sum,
            block_raw,
            *shape,
            **modes,
            RAW=in_pass,
            BLOCK=BLOCK,
            GROUP=TILE // BLOCK,
            WIDTH=_width(logits.element_size()),
        )
    # The step that goes past the bound is stored whole.
    gathered_z = torch.empty((rows, candidates + STEP), dtype=dtype, device=device)
    gathered_id = torch.empty((rows, candidates + STEP), dtype=torch.int32, device=device)
    with on_device(logits):
        _finish[(rows,)](
            logits,
            index if index is not None else block_sum,
            temperature,
            *(getattr(params, name).contiguous() for name in ("top_k", "top_p", "min_p")),
            *(getattr(params, name).contiguous() for name in ("key", "position")),
            block_max,
            block_sum,
            block_raw,
            gathered_z,
            gathered_id,
            *(drawn.token, drawn.logprob, drawn.logprob_full, drawn.kept_mass),
            drawn.logprob if drawn.logprob_raw is None else drawn.logprob_raw,
            *shape,
            **modes,
            RAW=in_pass,
            CANDIDATES=candidates,
            KEY_BITS=_KEY_BITS[logits.dtype],
            BLOCK=BLOCK,
            STEP=STEP,
            BLOCKS=triton.next_power_of_2(blocks),
            num_warps=8,
            **({"maxnreg": REGISTERS} if logits.is_cuda else {}),
        )
    if not raw or in_pass:
        return drawn
    return dataclasses.replace(drawn, logprob_raw=_raw_logprob(given, row_index, drawn.token))


def _raw_logprob(
    logits: torch.Tensor, row_index: torch.Tensor | None, token: torch.Tensor
) -> torch.Tensor:
    """That of the first maximum, which a greedy draw gives, and the difference of two logits."""
    best = sample_tokens(logits, SampleParams.greedy(len(logits), logits.device), None, None)
    index = torch.arange(len(token), device=token.device) if row_index is None else row_index
    index = index.clamp(0, len(logits) - 1)
    own, top = (logits[index, at.clamp(min=0)] for at in (token, best.token[index]))
    dtype = accumulate_dtype(logits.dtype)
    return best.logprob_full[index] + (own.to(dtype) - top.to(dtype))


def _width(element_bytes: int) -> int:
    """Elements that the 32 lanes of a warp read at 16 bytes each."""
    return 32 * 16 // element_bytes


def _adjusted(
    logits: torch.Tensor,
    row_index: torch.Tensor | None,
    adjust: LogitAdjust,
    dtype: torch.dtype,
) -> torch.Tensor:
    """A copy [R, vocab] in ``dtype``, a row per row of the draw, with the adjustments made."""
    if row_index is not None:
        # An index outside is clamped here and gives token -1 later.
        logits = logits.index_select(0, row_index.clamp(0, logits.shape[0] - 1))
    z = logits.to(dtype, copy=True, memory_format=torch.contiguous_format)
    entries = ("indptr", "token_ids", "bias", "count", "in_prompt")
    per_row = ("repetition", "presence", "frequency")
    fields = [getattr(adjust, name).contiguous() for name in (*entries, *per_row)]
    with on_device(z):
        _adjust[(z.shape[0],)](z, *fields, z.shape[1], ENTRIES=256)
    return z


_PER_ROW = {"temperature": "*fp32", "top_k": "*i32", "top_p": "*fp32", "min_p": "*fp32"}
_STREAM = {"key": "*i64", "position": "*i64"}
_SHAPE = {"sources": "i32", "stride": "i32", "vocab": "i32", "blocks": "i32"}


def _scan_variant(source: str, accumulate: str, *, raw: bool = False) -> Variant:
    signature = {"logits": f"*{source}", "row_index": "*i64", "temperature": "*fp32"}
    signature |= {"block_max": f"*{accumulate}", "block_sum": "*fp64", "block_raw": "*fp64"}
    signature |= _SHAPE
    constants = {"INDEXED": False, "COPIED": False, "BLOCK": BLOCK, "GROUP": TILE // BLOCK}
    constants |= {"WIDTH": _width(4 if source == "fp32" else 2), "RAW": raw}
    return Variant(
        name=f"scan-{source}{'-raw' * raw}",
        kernel=_scan,
        signature={**signature, **dict.fromkeys(constants, "constexpr")},
        constants=constants,
        # Vocabularies of 49,152, 128,256 and 151,936: the mask is the same for 16 bytes.
        divisible=(
            *("logits", "temperature", "block_max", "block_sum", "block_raw", "stride", "vocab"),
        ),
    )


def _finish_variant(source: str, accumulate: str, bits: int, *, raw: bool = False) -> Variant:
    pointers = {"logits": f"*{source}", "row_index": "*i64", **_PER_ROW, **_STREAM}
    pointers |= {"block_max": f"*{accumulate}", "block_sum": "*fp64", "block_raw": "*fp64"}
    pointers |= {"gathered_z": f"*{accumulate}", "gathered_id": "*i32", "token": "*i64"}
    results = ("logprob", "logprob_full", "kept_mass", "logprob_raw")
    pointers |= dict.fromkeys(results, f"*{accumulate}")
    constants = {
        "INDEXED": False,
        "COPIED": False,
        "CANDIDATES": CANDIDATES,
        "KEY_BITS": bits,
        "BLOCK": BLOCK,
        "STEP": STEP,
        "BLOCKS": 128,
        "RAW": raw,
    }
    return Variant(
        name=f"finish-{source}{'-raw' * raw}",
        kernel=_finish,
        signature={**pointers, **_SHAPE, **dict.fromkeys(constants, "constexpr")},
        constants=constants,
        divisible=(*pointers, "stride", "vocab"),
        num_warps=8,
        max_registers={80: REGISTERS, 90: REGISTERS},
    )


def _adjust_variant() -> Variant:
    pointers = {"z": "*fp32", "indptr": "*i64", "token_ids": "*i32", "bias": "*fp32"}
    pointers |= {"count": "*i32", "in_prompt": "*u8"}
    pointers |= dict.fromkeys(("repetition", "presence", "frequency"), "*fp32")
    return Variant(
        name="adjust-fp32",
        kernel=_adjust,
        signature={**pointers, "vocab": "i32", "ENTRIES": "constexpr"},
        constants={"ENTRIES": 256},
        divisible=tuple(pointers),
    )


VARIANTS = (
    _scan_variant("bf16", "fp32"),
    _scan_variant("fp16", "fp32"),
    _scan_variant("fp32", "fp32"),
    _finish_variant("bf16", "fp32", _KEY_BITS[torch.bfloat16]),
    _finish_variant("fp32", "fp32", _KEY_BITS[torch.float32]),
    *(_scan_variant(source, "fp32", raw=True) for source in ("bf16", "fp16", "fp32")),
    _finish_variant("bf16", "fp32", _KEY_BITS[torch.bfloat16], raw=True),
    _finish_variant("fp32", "fp32", _KEY_BITS[torch.float32], raw=True),
    _adjust_variant(),
)
