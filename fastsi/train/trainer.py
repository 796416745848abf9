"""Fine-tuning of a live module: AdamW, warm-up and cosine, accumulation, resume, via accelerate."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from fastsi.errors import ConfigError, NumericalError
from fastsi.train.batches import Encoded, MicroBatch, draw_batches, micro_batches
from fastsi.train.checkpoint import load_state, save_state
from fastsi.train.config import TrainConfig
from fastsi.train.loss import can_share_prefix, target_nll


@dataclass(slots=True, kw_only=True)
class TrainLog:
    """What happened in training, over all its steps, resumed or not."""

    losses: list[float] = field(default_factory=list)
    """Mean negative log-probability per target token of each step, in nats."""
    grad_norms: list[float] = field(default_factory=list)
    """Norm of each step's gradient before clipping."""
    target_tokens: int = 0
    """Tokens that carried loss."""
    computed_tokens: int = 0
    """Tokens that went through the model, padding included."""
    padding_tokens: int = 0
    """Of these, padding."""
    seconds: float = 0.0
    """Wall time of the steps."""


def fine_tune(
    model: nn.Module,
    sequences: Sequence[Encoded],
    config: TrainConfig,
    seed: int,
    *,
    state_path: Path | None = None,
    identity: str = "",
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> TrainLog:
    """Train ``model`` in place on the targets of ``sequences``.

    Parameters that require gradients are trained, or all floating-point ones if none does. Modes
    and ``requires_grad`` flags are restored at the end, also after an error.

    Args:
        model: a causal language model.
        sequences: at least one.
        config: steps, sizes, rates.
        seed: seed of the order of examples and of dropout.
        state_path: where to save the training state every ``config.save_every`` steps; a state
            found there that has the same ``identity`` is continued.
        identity: names this training: its data, config and starting weights.
        on_step: called after each step with the number of steps done and the loss.

    Raises:
        NumericalError: the loss is not finite.
        ConfigError: no sequences, or started in several processes.
    """
    if not sequences:
        raise ConfigError("no training sequences")
    with _trainable(model) as parameters, _own_random_stream(model, seed), _own_accelerate_state():
        run = _Run(model, parameters, sequences, config, seed)
        try:
            if state_path is not None:
                run.restore(load_state(state_path, identity))
            for indices in run.remaining_batches():
                loss = run.step([sequences[i] for i in indices])
                on_step(run.done, loss)
                due = config.save_every and run.done % config.save_every == 0
                if state_path is not None and due and run.done < config.steps:
                    save_state(state_path, run.state(identity))
        finally:
            run.close()
    return run.log


class _Run:
    """Optimizer, schedule and counters of one training."""

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        sequences: Sequence[Encoded],
        config: TrainConfig,
        seed: int,
    ) -> None:
        self._config = config
        self._module = model
        self._parameters = parameters
        self._device = parameters[0].device
        self._accelerator = _accelerator(config, self._device)
        self._masters = _masters(parameters)
        matrices = [p for p in self._masters if p.ndim >= 2]
        others = [p for p in self._masters if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: lr_share(config, n))
        self._model, self._optimizer, self._schedule = self._accelerator.prepare(
            model, optimizer, schedule, device_placement=[False, False, False]
        )
        order = torch.Generator().manual_seed(seed)
        self._batches = draw_batches(len(sequences), config.batch_size, config.steps, order)
        self._share = config.share_prefix and can_share_prefix(model)
        self.done = 0
        self.log = TrainLog()

    def remaining_batches(self) -> Iterator[list[int]]:
        """Indices of the steps not done yet; the order depends on the seed alone."""
        for number, indices in enumerate(self._batches):
            if number >= self.done:
                yield indices

    def step(self, sequences: list[Encoded]) -> float:
        """One optimizer step; returns the mean loss per target token."""
        started = time.perf_counter()
        batches = micro_batches(
            sequences, self._config.micro_batch_tokens, share_prefix=self._share
        )
        targets = sum(int(batch.is_target.sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = target_nll(self._model, self._to_device(batch)) / targets
            self._accelerator.backward(loss)
            total += float(loss.detach())
            self.log.computed_tokens += batch.ids.numel() + batch.prefix.numel()
            self.log.padding_tokens += int((batch.mask == 0).sum())
        if not math.isfinite(total):
            raise NumericalError(
                f"training step {self.done + 1}: the loss is {total}; lower learning_rate"
            )
        self._update()
        self.done += 1
        self.log.losses.append(total)
        self.log.target_tokens += targets
        self.log.seconds += time.perf_counter() - started
        return total

    def _update(self) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if master is not parameter and parameter.grad is not None:
                master.grad = parameter.grad.float()
                parameter.grad = None
        limit = self._config.max_grad_norm or math.inf
        norm = self._accelerator.clip_grad_norm_(self._masters, limit)
        self.log.grad_norms.append(float(norm))
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)

    def state(self, identity: str) -> dict[str, Any]:
        """Everything that the next step depends on."""
        on_gpu = self._device.type == "cuda"
        return {
            "identity": identity,
            "done": self.done,
            "log": {name: getattr(self.log, name) for name in TrainLog.__slots__},
            "weights": [master.detach() for master in self._masters],
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._accelerator.scaler.state_dict() if self._accelerator.scaler else None,
            "random": torch.get_rng_state(),
            "random_device": torch.cuda.get_rng_state(self._device) if on_gpu else None,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from ``state()``; None: from the start."""
        if state is None:
            return
        with torch.no_grad():
            for master, stored in zip(self._masters, state["weights"], strict=True):
                master.copy_(stored)
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_device"] is not None:
            torch.cuda.set_rng_state(state["random_device"], self._device)
        self.done = state["done"]
        self.log = TrainLog(**state["log"])

    def close(self) -> None:
        """Give the module back without accelerate's wrappers and without gradients."""
        self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        for parameter in self._parameters:
            parameter.grad = None

    def _to_device(self, batch: MicroBatch) -> MicroBatch:
        return MicroBatch(
            prefix=batch.prefix.to(self._device),
            ids=batch.ids.to(self._device),
            mask=batch.mask.to(self._device),
            is_target=batch.is_target.to(self._device),
        )


def lr_share(config: TrainConfig, done: int) -> float:
    """Learning rate of the step after ``done`` steps, as a share of the peak."""
    if done < config.warmup_steps:
        return (done + 1) / (config.warmup_steps + 1)
    span = max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - config.warmup_steps) / span)))
    return config.min_lr_share + (1.0 - config.min_lr_share) * cosine


def _accelerator(config: TrainConfig, device: torch.device) -> Accelerator:
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=device.type == "cpu")
    if accelerator.num_processes != 1:
        raise ConfigError(
            f"started in {accelerator.num_processes} processes: rounds sample and train in one; "
            "run without a distributed launcher"
        )
    return accelerator


def _masters(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """What the optimizer moves: float32 copies of half-precision parameters, others themselves.

    An update of 1e-5 of a bfloat16 weight rounds away; it must add up somewhere.
    """
    half = (torch.float16, torch.bfloat16)
    return [p.detach().float().requires_grad_() if p.dtype in half else p for p in parameters]


@contextlib.contextmanager
def _trainable(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Train mode and gradients on; the parameters to train. Modes and flags are restored."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(m, m.training) for m in model.modules()]
    chosen = [p for p, on in flags if on] or [p for p, _ in flags if p.is_floating_point()]
    try:
        model.train()
        for parameter in chosen:
            parameter.requires_grad_(True)
        yield chosen
    finally:
        for parameter, on in flags:
            parameter.requires_grad_(on)
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _own_accelerate_state() -> Iterator[None]:
    """Let a training choose precision and device, whatever accelerate was used for before.

    accelerate keeps one state per process and refuses another precision; a caller's own state
    (another trainer's, say) is put back as it was.
    """
    shared = [kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)]
    before = [dict(state) for state in shared]
    try:
        for state in shared:
            state.clear()
        yield
    finally:
        for state, saved in zip(shared, before, strict=True):
            state.clear()
            state.update(saved)


@contextlib.contextmanager
def _own_random_stream(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed dropout without touching the caller's random state."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
        torch.manual_seed(seed)
        yield
