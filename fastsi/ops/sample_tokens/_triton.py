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

import torch
import triton

from fastsi.ops._checks import accumulate_dtype
from fastsi.ops._launch import on_device, rows_dense
from fastsi.ops._triton_variants import Variant
from fastsi.ops.sample_tokens._triton_kernels import _adjust, _finish, _scan, _score
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
    temperature = params.temperature.contiguous()
    # A copy that was adjusted has a row of its own for every row of the draw, and log-probs of the
    # given logits take another look at these.
    copied = adjust is not None
    in_pass = raw and not copied
    sums = _scanned(logits, index, temperature, copied=copied, raw=in_pass)
    # The step that goes past the bound is stored whole.
    gathered_z = torch.empty((rows, candidates + STEP), dtype=dtype, device=device)
    gathered_id = torch.empty((rows, candidates + STEP), dtype=torch.int32, device=device)
    with on_device(logits):
        _finish[(rows,)](
            logits,
            sums[1] if index is None else index,
            temperature,
            *(getattr(params, name).contiguous() for name in ("top_k", "top_p", "min_p")),
            *(getattr(params, name).contiguous() for name in ("key", "position")),
            *sums,
            gathered_z,
            gathered_id,
            *(drawn.token, drawn.logprob, drawn.logprob_full, drawn.kept_mass),
            drawn.logprob if drawn.logprob_raw is None else drawn.logprob_raw,
            *(sources, logits.stride(0), vocab, blocks),
            INDEXED=index is not None,
            COPIED=copied,
            RAW=in_pass,
            CANDIDATES=candidates,
            KEY_BITS=_KEY_BITS[logits.dtype],
            BLOCK=BLOCK,
            STEP=STEP,
            BLOCKS=triton.next_power_of_2(blocks),
            num_warps=8,
            **({"maxnreg": REGISTERS} if logits.is_cuda else {}),
        )
    if raw and copied:
        _score_given(given, index, temperature, drawn)
    return drawn


def _scanned(
    logits: torch.Tensor,
    index: torch.Tensor | None,
    temperature: torch.Tensor,
    *,
    copied: bool,
    raw: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per row of the draw and block: maximum, sum of weights, and, if ``raw``, at temperature 1."""
    (sources, vocab), rows = logits.shape, len(temperature)
    blocks, dtype = triton.cdiv(vocab, BLOCK), accumulate_dtype(logits.dtype)
    block_max = torch.empty((rows, blocks), dtype=dtype, device=logits.device)
    block_sum = torch.empty((rows, blocks), dtype=torch.float64, device=logits.device)
    block_raw = torch.empty_like(block_sum) if raw else block_sum
    with on_device(logits):
        _scan[(triton.cdiv(vocab, TILE), rows)](
            logits,
            block_sum if index is None else index,
            temperature,
            block_max,
            block_sum,
            block_raw,
            *(sources, logits.stride(0), vocab, blocks),
            INDEXED=index is not None,
            COPIED=copied,
            RAW=raw,
            BLOCK=BLOCK,
            GROUP=TILE // BLOCK,
            WIDTH=_width(logits.element_size()),
        )
    return block_max, block_sum, block_raw


def _score_given(
    logits: torch.Tensor,
    index: torch.Tensor | None,
    temperature: torch.Tensor,
    drawn: SampledTokens,
) -> None:
    """Write `SampledTokens.logprob_raw` with the bits that a draw from ``logits`` would give it."""
    block_max, _, block_raw = _scanned(logits, index, temperature, copied=False, raw=True)
    with on_device(logits):
        _score[(len(temperature),)](
            logits,
            block_raw if index is None else index,
            drawn.token,
            block_max,
            block_raw,
            drawn.logprob_raw,
            *(logits.shape[0], logits.stride(0), block_max.shape[1]),
            INDEXED=index is not None,
            BLOCKS=triton.next_power_of_2(block_max.shape[1]),
        )


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


_SCANNED = ("logits", "temperature", "block_max", "block_sum", "block_raw")


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
        divisible=(*_SCANNED, "stride", "vocab"),
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


def _score_variant(source: str, accumulate: str) -> Variant:
    signature = {"logits": f"*{source}", "row_index": "*i64", "token": "*i64"}
    signature |= {"block_max": f"*{accumulate}", "block_raw": "*fp64"}
    signature |= {"logprob_raw": f"*{accumulate}"}
    pointers = tuple(signature)
    signature |= {"sources": "i32", "stride": "i32", "blocks": "i32"}
    constants = {"INDEXED": False, "BLOCKS": 128}
    return Variant(
        name=f"score-{source}",
        kernel=_score,
        signature={**signature, **dict.fromkeys(constants, "constexpr")},
        constants=constants,
        divisible=(*pointers, "stride"),
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
    _score_variant("bf16", "fp32"),
    _adjust_variant(),
)
