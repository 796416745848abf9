"""Training: how a step is cut does not matter, a killed training goes on as if it had not been."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fastsi.errors import ArtifactError, ConfigError, NumericalError
from fastsi.train import TrainConfig
from fastsi.train.batches import Encoded
from fastsi.train.trainer import fine_tune, lr_share
from tests.support.tiny_models import make_model

QUICK = TrainConfig(steps=6, batch_size=8, learning_rate=3e-3, warmup_steps=2, weight_decay=0.1)


def sequences(seed: int, vocab: int, count: int = 20, shared: int = 20) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    prefix = rng.integers(3, vocab, shared).tolist()
    found = []
    for index in range(count):
        prompt = (prefix if index % 2 else []) + rng.integers(3, vocab, rng.integers(2, 9)).tolist()
        target = rng.integers(3, vocab, rng.integers(1, 12)).tolist()
        found.append(Encoded(tuple(prompt + target), len(prompt), "ab"[index % 2]))
    return found


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def trained(config: TrainConfig, *, seed: int = 1, dtype: torch.dtype = torch.float64, **kw: Any):  # type: ignore[no-untyped-def]
    model = make_model("llama", 3, dtype=dtype)
    log = fine_tune(model, sequences(seed, model.config.vocab_size), config, seed, **kw)
    return weights(model), log


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 60])
def test_one_pass_of_eight_is_eight_passes_of_one(share: bool, max_tokens: int) -> None:
    whole, log = trained(dataclasses.replace(QUICK, share_prefix=False))
    cut, cut_log = trained(
        dataclasses.replace(QUICK, micro_batch_tokens=max_tokens, share_prefix=share)
    )
    moved = float((whole - weights(make_model("llama", 3, dtype=torch.float64))).abs().max())
    assert moved > 1e-3
    assert float((whole - cut).abs().max()) < 1e-4 * moved
    assert cut_log.losses == pytest.approx(log.losses, rel=1e-6)
    assert cut_log.target_tokens == log.target_tokens
    if max_tokens == 1 and not share:
        assert cut_log.padding_tokens == 0 < log.padding_tokens


def test_the_first_step_is_adamw_on_the_mean_loss_per_target_token() -> None:
    """Against torch's own AdamW on a loss written out sequence by sequence."""
    config = TrainConfig(
        steps=1, batch_size=20, learning_rate=1e-2, warmup_steps=0, weight_decay=0.1,
        max_grad_norm=0.5,
    )  # fmt: skip
    found, log = trained(config)
    model = make_model("llama", 3, dtype=torch.float64)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for s in sequences(1, model.config.vocab_size):
        logits = model(input_ids=torch.tensor([s.ids])).logits[0, s.prompt_tokens - 1 : -1]
        own = torch.tensor(s.ids[s.prompt_tokens :])
        total = total + nn.functional.cross_entropy(logits, own, reduction="sum")
        count += len(own)
    (total / count).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95)).step()
    assert log.losses == pytest.approx([total.item() / count], rel=1e-6)
    assert log.grad_norms == pytest.approx([float(norm)], rel=1e-5)
    assert log.target_tokens == count
    assert float((found - weights(model)).abs().max()) < 1e-5


def test_training_teaches_the_targets() -> None:
    config = dataclasses.replace(QUICK, steps=60, learning_rate=1e-2)
    _, log = trained(config, dtype=torch.float32)
    assert log.losses[-1] < 0.3 * log.losses[0]


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_killed_training_goes_on_where_it_was_saved(tmp_path: Path, stop_after: int) -> None:
    """GPT-2 has dropout, so the random state must come back too."""
    config = dataclasses.replace(QUICK, save_every=2)
    state = tmp_path / "state"

    def run(**kw: Any):  # type: ignore[no-untyped-def]
        model = make_model("gpt2", 3)
        assert model.config.resid_pdrop > 0
        return model, fine_tune(model, sequences(5, model.config.vocab_size), config, 5, **kw)

    def die(step: int, loss: float) -> None:
        if step == stop_after:
            raise Killed

    expected, log = run()
    with pytest.raises(Killed):
        run(state_path=state, identity="x", on_step=die)
    assert state.exists() == (stop_after > 2)
    steps: list[int] = []
    resumed, resumed_log = run(
        state_path=state, identity="x", on_step=lambda step, loss: steps.append(step)
    )
    saved = (stop_after - 1) // 2 * 2  # the callback comes before the save of its step
    assert steps == list(range(saved + 1, 7))
    assert float((weights(resumed) - weights(expected)).abs().max()) < 1e-6
    assert resumed_log.losses == pytest.approx(log.losses, rel=1e-5)
    assert resumed_log.target_tokens == log.target_tokens


def test_a_state_of_another_training_is_not_continued(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, save_every=2)
    first, _ = trained(config, state_path=tmp_path / "s", identity="one")
    assert (tmp_path / "s").exists()
    again, _ = trained(config, state_path=tmp_path / "s", identity="two")
    assert torch.equal(first, again)
    (tmp_path / "s").write_bytes(b"not a state")
    with pytest.raises(ArtifactError, match="damaged training state"):
        trained(config, state_path=tmp_path / "s", identity="two")


def test_modes_flags_and_random_state_come_back() -> None:
    model = make_model("gpt2", 3)
    frozen = [p for i, p in enumerate(model.parameters()) if i % 2]
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [p.detach().clone() for p in frozen]
    model.transformer.h[0].train()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fine_tune(model, sequences(1, model.config.vocab_size), QUICK, 1)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [
        not i % 2 for i, _ in enumerate(model.parameters())
    ]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, b) for p, b in zip(frozen, before, strict=True))


def test_a_model_without_gradients_is_trained_whole_and_given_back_so() -> None:
    model = make_model("llama", 3).requires_grad_(False)
    before = weights(model)
    fine_tune(model, sequences(1, model.config.vocab_size), QUICK, 1)
    assert not torch.equal(weights(model), before)
    assert not any(p.requires_grad for p in model.parameters())
    assert "forward" not in vars(model), "accelerate's wrapper is still on the module"


def test_another_precision_and_a_callers_accelerator_do_not_disturb() -> None:
    caller = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=3, cpu=True)
    plain = dataclasses.replace(QUICK, mixed_precision="no")
    reference, log = trained(plain, dtype=torch.float32)
    assert caller.mixed_precision == "bf16"
    assert caller.gradient_state.num_steps == 3
    rounded = dataclasses.replace(QUICK, mixed_precision="bf16")
    mixed, mixed_log = trained(rounded, dtype=torch.float32)
    assert mixed_log.losses != log.losses
    assert mixed_log.losses == pytest.approx(log.losses, rel=0.05)
    again, _ = trained(plain, dtype=torch.float32)
    assert torch.equal(again, reference)
    assert not torch.equal(mixed, reference)


def test_small_updates_of_bfloat16_weights_add_up() -> None:
    """At this rate one step is less than half the spacing of bfloat16 numbers."""
    config = dataclasses.replace(
        QUICK, steps=30, learning_rate=3e-4, warmup_steps=0, weight_decay=0.0, min_lr_share=1.0
    )
    reference, _ = trained(config, dtype=torch.float32)
    found, log = trained(config, dtype=torch.bfloat16)
    base = weights(make_model("llama", 3, dtype=torch.bfloat16))
    wanted = reference - weights(make_model("llama", 3, dtype=torch.float32))
    moved = found - base
    cosine = float(moved @ wanted / (moved.norm() * wanted.norm()))
    assert cosine > 0.7
    assert 0.7 < float(moved.norm() / wanted.norm()) < 1.3
    assert log.losses[-1] < log.losses[0]


def test_losses_that_are_not_finite_stop_the_run() -> None:
    model = make_model("llama", 3)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="training step 1: the loss is nan"):
        fine_tune(model, sequences(1, model.config.vocab_size), QUICK, 1)
    assert not model.training


def test_no_sequences_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no training sequences"):
        fine_tune(make_model("llama", 3), [], QUICK, 1)


def test_the_learning_rate_rises_to_its_peak_and_falls_along_a_cosine() -> None:
    config = TrainConfig(steps=110, warmup_steps=10, min_lr_share=0.1)
    shares = [lr_share(config, done) for done in range(110)]
    assert shares[0] == pytest.approx(1 / 11)
    assert shares[10] == 1.0
    assert shares[60] == pytest.approx(0.55)
    assert shares[:11] == sorted(shares[:11])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert lr_share(config, 110) == pytest.approx(0.1)
