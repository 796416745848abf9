"""The section of `run_all.py` that draws tokens: the op, torch, and two other ways."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import bench_sample_tokens
import torch
from _measure import Context, device_seconds, show_time

from fastsi import ops

_TEMPERATURE = 0.7
_CUT: dict[str, Any] = {"top_k": 50, "top_p": 0.9}


def sample_tokens(context: Context) -> None:
    """One pass over the logits of a step, beside softmax and multinomial, rejection and a head
    that draws."""
    rows, vocab = (6, 211) if context.dry else (256, 128256)
    copies = 2 if context.dry else 4
    logits = [
        bench_sample_tokens.make_logits(rows, vocab, context.dtype, context.device)
        for _ in range(copies)
    ]
    floor = context.floor(0.0, float(logits[0].nbytes))
    plain = _times(context, logits, {})
    ours, theirs = plain.values()
    context.share(f"sample_tokens, {rows} x {vocab}", ours, floor, 0.85)
    context.ratio("the same beside torch softmax and multinomial", theirs / ours, 5.0)
    params = _params(context, rows, {"temperature": _TEMPERATURE})
    name = "reference" if context.dry else "triton"
    draw = partial(ops.sample_tokens, params=params, check=False, raw=True, backend=name)
    raw = device_seconds([partial(draw, x) for x in logits], context.device)
    context.share("sample_tokens with the raw log-prob", raw, floor, None)
    tokens = torch.zeros(rows, dtype=torch.int64, device=context.device)
    listed = partial(
        ops.top_logprobs, tokens=tokens, count=5, backend="reference" if context.dry else "cuda"
    )
    seconds = device_seconds([partial(listed, x) for x in logits], context.device)
    context.share("top_logprobs, 5 tokens and the rank", seconds, floor, None)
    cut = _times(context, logits, _CUT)
    ours_cut, theirs_cut = cut.values()
    context.share("sample_tokens with top-k 50 and top-p 0.9", ours_cut, floor, None)
    context.ratio("the same beside torch with sorts", theirs_cut / ours_cut, None)
    _rejection(context, logits, ours, ours_cut)
    _head(context, rows, vocab)


def _params(context: Context, rows: int, options: dict[str, Any]) -> ops.SampleParams:
    return ops.SampleParams.build(key=range(rows), position=0, device=context.device, **options)


def _times(
    context: Context, logits: list[torch.Tensor], options: dict[str, Any]
) -> dict[str, float]:
    """Seconds of ours, then of torch; neither makes the host wait."""
    options = {"temperature": _TEMPERATURE} | options
    params = _params(context, len(logits[0]), options)
    name = "reference" if context.dry else "triton"
    calls = [bench_sample_tokens.providers(x, params, options, (name,)) for x in logits]
    return {
        one: device_seconds([each[one] for each in calls], context.device)
        for one in (name, "torch-multinomial")
    }


def _rejection(context: Context, logits: list[torch.Tensor], ours: float, ours_cut: float) -> None:
    """Probabilities and rounds of rejection, in place of `ops.sample_tokens`."""
    from _triton_sampling import rejection_sample

    def draw(x: torch.Tensor, params: ops.SampleParams) -> torch.Tensor:
        return rejection_sample(torch.softmax(x.float() / _TEMPERATURE, dim=-1), params)[1]

    for name, options, base in (("no truncation", {}, ours), ("top-k and top-p", _CUT, ours_cut)):
        params = _params(context, len(logits[0]), options)
        seconds = device_seconds([partial(draw, x, params) for x in logits], context.device)
        rounds = float(draw(logits[0], params).float().mean())
        context.add(
            f"draw by rejection as FlashInfer's, {name}",
            f"{show_time(seconds)}, {rounds:.1f} rounds; sample_tokens is {seconds / base:.2f}x "
            f"as fast",
            seconds=seconds,
            rounds=rounds,
            sample_tokens_seconds=base,
        )


def _head(context: Context, rows: int, vocab: int) -> None:
    """The head's product and the draw in one kernel, beside the library's product and the op."""
    from _triton_sampling import head_sample

    hidden = 48 if context.dry else 4096
    states = torch.randn(rows, hidden, device=context.device).to(context.dtype)
    weight = (torch.randn(vocab, hidden, device=context.device) / hidden**0.5).to(context.dtype)
    params = _params(context, rows, {"temperature": _TEMPERATURE})
    backend = "reference" if context.dry else "triton"

    def apart() -> torch.Tensor:
        return ops.sample_tokens(states @ weight.t(), params, check=False, backend=backend).token

    calls: dict[str, Callable[[], object]] = {
        "apart": apart,
        "in one": partial(head_sample, states, weight, params),
    }
    seconds = {name: device_seconds([call], context.device) for name, call in calls.items()}
    floor = context.floor(2.0 * rows * vocab * hidden, float(weight.nbytes))
    context.add(
        f"head and draw, {rows} x {hidden} x {vocab}",
        f"product and sample_tokens {show_time(seconds['apart'])}, in one kernel (Gumbel-max) "
        f"{show_time(seconds['in one'])}, floor {show_time(floor)}",
        floor_seconds=floor,
        **{f"{name.replace(' ', '_')}_seconds": value for name, value in seconds.items()},
    )
