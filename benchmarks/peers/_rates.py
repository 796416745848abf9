"""The machine's rate for linears with int8 weights and dynamically quantised activations."""

from __future__ import annotations

import warnings

import torch
from _harness import timed


def int8_rate(*, quick: bool = False) -> float:
    """Operations per second of torch's prepacked dynamic int8 linear, at a large size.

    Quantising the activations and scaling the result are part of the time, as in use.
    """
    size, tries = (256, 2) if quick else (2048, 5)
    linear = torch.nn.Sequential(torch.nn.Linear(size, size, bias=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated there, and still the fastest int8 linear
        quantised = torch.ao.quantization.quantize_dynamic(linear, dtype=torch.qint8)
    rows = torch.randn(size, size)
    with torch.inference_mode():
        quantised(rows)
        return 2 * size**3 / min(timed(lambda: quantised(rows)) for _ in range(tries))
