"""Public face of `token_logprob`: checks and the choice of a backend."""

from __future__ import annotations

import torch

from fastsi.ops import _checks, _registry


def token_logprob(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of one chosen token per row, straight from the states before the head.

    With z = hidden @ weight.T + bias, then softcap * tanh(z / softcap), then z / temperature:
    ``logprob = z[target] - lse`` and ``lse = logsumexp(z)``. Cross-entropy is ``-logprob.sum()``.
    The backends other than the reference never hold all logits. Differentiable in hidden, weight
    and bias, through both results.

    Args:
        hidden: [N, H], floating.
        weight: [V, H], hidden's dtype.
        targets: int64 [N] in 0..V-1, or ``ignore_index``: log-prob 0, without a gradient.
        bias: [V], hidden's dtype.
        temperature: above 0.
        softcap: above 0; None: no cap.
        ignore_index: marks rows without a target.
        backend: a name, or "auto".

    Returns:
        (logprob, lse), each [N]: float32, or float64 for float64 states.

    Raises:
        ValueError: shapes, dtypes, devices or numbers disagree, or a target lies outside the
            vocabulary. On a GPU such a row's log-prob is NaN instead: finding it would wait for
            the device.
        BackendUnavailable: the requested backend cannot run.
    """
    _checks.require_float("hidden", hidden)
    _checks.require_shape("hidden", hidden, (None, None))
    _checks.require_shape("weight", weight, (None, hidden.shape[1]))
    _checks.require_dtype("weight", weight, hidden.dtype)
    _checks.require_shape("targets", targets, (hidden.shape[0],))
    _checks.require_dtype("targets", targets, torch.int64)
    if weight.shape[0] == 0:
        raise ValueError("weight: the vocabulary is empty")
    if bias is not None:
        _checks.require_shape("bias", bias, (weight.shape[0],))
        _checks.require_dtype("bias", bias, hidden.dtype)
        _checks.require_device("bias", bias, hidden.device)
    _checks.require_device("weight", weight, hidden.device)
    _checks.require_device("targets", targets, hidden.device)
    if not temperature > 0:
        raise ValueError(f"temperature: is {temperature}, must be above 0")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap: is {softcap}, must be above 0, or None for no cap")
    if targets.device.type == "cpu":
        wrong = (targets != ignore_index) & ((targets < 0) | (targets >= weight.shape[0]))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"targets[{row}]: is {int(targets[row])}, must be in 0..{weight.shape[0] - 1} or "
                f"ignore_index={ignore_index}"
            )
    given = (hidden, weight) if bias is None else (hidden, weight, bias)
    run = _registry.choose("token_logprob", _registry.facts(*given), backend)
    logprob: torch.Tensor
    lse: torch.Tensor
    logprob, lse = run(hidden, weight, targets, bias, temperature, softcap, ignore_index)
    return logprob, lse
