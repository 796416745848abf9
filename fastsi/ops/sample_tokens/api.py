"""Public face of `sample_tokens`: checks and the choice of a backend."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fastsi.errors import NumericalError
from fastsi.ops import _checks, _registry
from fastsi.ops.sample_tokens.params import LogitAdjust, SampledTokens, SampleParams


def sample_tokens(
    logits: torch.Tensor,
    params: SampleParams,
    *,
    row_index: torch.Tensor | None = None,
    adjust: LogitAdjust | None = None,
    check: bool = True,
    raw: bool = False,
    backend: str = "auto",
) -> SampledTokens:
    """Draw one token per row, exactly from the stated distribution, from the row's own stream.

    The order of operations: adjust, temperature, min-p, top-k (ties at the edge stay), top-p over
    the renormalised rest (ties stay), draw by inversion of one 53-bit uniform in vocabulary order.
    Temperature 0 takes the first maximum; its log-probs are at temperature 1, untruncated.

    Args:
        logits: [L, vocab], floating; any row stride with a contiguous last dimension.
        params: settings of R rows, on logits' device.
        row_index: int64 [R]: row r reads ``logits[row_index[r]]``; None: R = L, row r reads row r.
        adjust: bias and penalties of R rows; logits are not modified. On a GPU a token outside
            the vocabulary is skipped.
        check: look for rows without a result, which waits for the device. False, as the capture
            of a CUDA graph needs, leaves token -1 in such a row; see `require_drawn`.
        raw: give `SampledTokens.logprob_raw` too, from the same pass over a row unless the row is
            adjusted (on backend "triton": unless any row is), which takes another.
        backend: a name, or "auto".

    Raises:
        NumericalError: a row has NaN, +inf, or no finite logit; the message names the row.
        ValueError: shapes, dtypes or devices disagree, or an index lies outside its range.
        BackendUnavailable: the requested backend cannot run.
    """
    _checks.require_float("logits", logits)
    _checks.require_shape("logits", logits, (None, None))
    if logits.shape[1] == 0:
        raise ValueError("logits: the vocabulary is empty")
    rows = params.num_rows
    if row_index is None:
        _checks.require_shape("params", params.temperature, (logits.shape[0],))
    else:
        _checks.require_shape("row_index", row_index, (rows,))
        _checks.require_dtype("row_index", row_index, torch.int64)
        _checks.require_device("row_index", row_index, logits.device)
    if adjust is not None:
        _checks.require_shape("adjust.repetition", adjust.repetition, (rows,))
        _checks.require_device("adjust", adjust.repetition, logits.device)
    _checks.require_device("params", params.temperature, logits.device)
    run = _registry.choose("sample_tokens", _registry.facts(logits), backend)
    drawn: SampledTokens = run(logits, params, row_index, adjust, raw)
    if check and bool((drawn.token < 0).any()):
        read = None if row_index is None else row_index.cpu().numpy()
        outside = (read is not None) and (read < 0) | (read >= len(logits))
        if read is not None and np.any(outside):
            row = int(np.argmax(outside))
            raise ValueError(f"row_index[{row}]: is {read[row]}, must be in 0..{len(logits) - 1}")
        require_drawn(drawn.token.cpu().numpy(), read)
    return drawn


def require_drawn(
    tokens: npt.NDArray[np.int64], row_index: npt.NDArray[np.int64] | None = None
) -> None:
    """Refuse tokens of a draw that did not succeed.

    Args:
        tokens: int64 [R], what `sample_tokens` drew.
        row_index: int64 [R], as it was given there.

    Raises:
        NumericalError: a row had NaN, +inf, or no finite logit; the message names the row.
    """
    bad = np.flatnonzero(tokens < 0)
    if not len(bad):
        return
    row = int(bad[0])
    source = row if row_index is None else int(row_index[row])
    raise NumericalError(
        f"logits[{source}] (row {row} of the draw) hold NaN, +inf or no finite value; "
        f"the model's weights or activations overflowed, or every token is banned"
    )
