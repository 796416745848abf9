"""Devices that a test body runs on."""

from __future__ import annotations

import pytest
import torch

_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=_GPU)]
"""For `pytest.mark.parametrize`; without a GPU its tests are skipped with the reason."""
