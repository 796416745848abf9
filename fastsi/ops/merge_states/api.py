"""Public face of `merge_states`: checks and the choice of a backend."""

from __future__ import annotations

import torch

from fastsi.ops import _checks, _registry


def merge_states(
    outs: torch.Tensor, lses: torch.Tensor, *, backend: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the union of n disjoint spans, from the results over each.

    Args:
        outs: [n, R, heads, head_dim], floating; 0 where the partial saw nothing.
        lses: [n, R, heads], natural log, float32 (float64 with float64 outs); -inf where the
            partial saw nothing.
        backend: a name, or "auto".

    Returns:
        out [R, heads, head_dim] in outs' dtype and lse [R, heads] in lses' dtype; where every
        partial is empty, 0 and -inf.

    Raises:
        ValueError: shapes, dtypes or devices disagree.
        BackendUnavailable: the requested backend cannot run.
    """
    _checks.require_float("outs", outs)
    _checks.require_shape("outs", outs, (None, None, None, None))
    if outs.shape[0] == 0:
        raise ValueError("outs: holds no partial result, must hold at least one")
    _checks.require_shape("lses", lses, tuple(outs.shape[:3]))
    _checks.require_dtype("lses", lses, _checks.accumulate_dtype(outs.dtype))
    _checks.require_device("lses", lses, outs.device)
    run = _registry.choose("merge_states", _registry.facts(outs, lses), backend)
    result: tuple[torch.Tensor, torch.Tensor] = run(outs, lses)
    return result
