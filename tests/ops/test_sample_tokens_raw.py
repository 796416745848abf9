"""sample_tokens(raw=True): which way finds a raw log-prob must not show in its bits."""

from __future__ import annotations

import pytest
import torch

from fastsi.ops import LogitAdjust, SampleParams
from tests.ops.test_sample_tokens import RUNNERS, draw_on, random_logits


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_raw_log_prob_has_the_same_bits_where_the_draw_is_raw(runner: str) -> None:
    """Which of the two is reported may depend on the rows beside a row."""
    rows = 40
    z = random_logits(rows, 1000, seed=4).float()
    drawn = draw_on(runner, z, SampleParams.build(key=range(rows), position=0))
    assert torch.equal(drawn.logprob_raw, drawn.logprob_full)
    greedy = SampleParams.greedy(rows, torch.device("cpu"))
    drawn = draw_on(runner, z, greedy)
    assert torch.equal(drawn.logprob_raw, drawn.logprob_full)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_raw_log_prob_has_the_same_bits_beside_adjusted_rows(
    runner: str, dtype: torch.dtype
) -> None:
    rows = 7
    z = random_logits(rows + 2, 1000, seed=6).to(dtype)
    params = SampleParams.build(key=range(rows), position=0, temperature=0.7)
    index = torch.tensor([8, 0, 1, 2, 3, 5, 7])
    plain = torch.zeros(rows)
    adjust = LogitAdjust(
        indptr=torch.tensor([0, *[2] * rows]),
        token_ids=torch.tensor([3, 500], dtype=torch.int32),
        bias=torch.tensor([1.0, -2.0]),
        count=torch.tensor([1, 0], dtype=torch.int32),
        in_prompt=torch.zeros(2, dtype=torch.uint8),
        repetition=plain + 1.2,
        presence=plain + 0.1,
        frequency=plain + 0.3,
    )
    alone = draw_on(runner, z, params, index)
    beside = draw_on(runner, z, params, index, adjust)
    assert torch.equal(beside.token[1:], alone.token[1:])
    assert torch.equal(beside.logprob_raw[1:], alone.logprob_raw[1:])
    truth = torch.log_softmax(z.double(), 1)[8, beside.token[0]]
    assert float(beside.logprob_raw[0]) == pytest.approx(float(truth), abs=1e-5)
