"""The loss against its definition; batching and shared prefixes change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from fastsi.train.batches import Encoded, micro_batches
from fastsi.train.loss import can_share_prefix, head_of, target_nll
from tests.support.tiny_models import FAMILIES, make_model

WINDOWED = {"mistral", "gemma2", "gemma3"}


def literal_nll(model: nn.Module, sequence: Encoded) -> torch.Tensor:
    """The definition: minus the sum of log p(token | tokens before it) over the target."""
    logits = model(input_ids=torch.tensor([sequence.ids]), use_cache=False).logits[0]
    total = logits.new_zeros(())
    for index in range(sequence.prompt_tokens, len(sequence.ids)):
        total = total - torch.log_softmax(logits[index - 1], dim=-1)[sequence.ids[index]]
    return total


def random_sequences(seed: int, vocab: int, shared: int) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    prefix = rng.integers(3, vocab, shared).tolist()
    found = []
    for _ in range(6):
        prompt = prefix + rng.integers(3, vocab, rng.integers(1, 9)).tolist()
        target = rng.integers(3, vocab, rng.integers(1, 12)).tolist()
        found.append(Encoded(tuple(prompt + target), len(prompt), "a"))
    return found


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [0, 40])
def test_loss_and_gradients_equal_the_literal_ones(family: str, shared: int) -> None:
    seed = 11
    model = make_model(family, seed, dtype=torch.float64)
    sequences = random_sequences(seed, model.config.vocab_size, shared)
    expected = torch.stack([literal_nll(model, s) for s in sequences]).sum()
    expected.backward()
    wanted = gradients(model)
    share = can_share_prefix(model)
    assert not share or family not in WINDOWED
    for max_tokens in (1, 100, 10_000):
        batches = micro_batches(sequences, max_tokens, share_prefix=share)
        assert all((len(batch.prefix) > 0) == (share and shared > 0) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = target_nll(model, batch)
            loss.backward()
            total += loss.item()
        # Norms and rotations round to float32 inside transformers, whatever the model's dtype.
        assert total == pytest.approx(expected.item(), rel=1e-6)
        found = gradients(model)
        assert found.keys() == wanted.keys()
        scale = max(float(g.abs().max()) for g in wanted.values())
        for name, gradient in found.items():
            error = float((gradient - wanted[name]).abs().max())
            assert error <= 1e-5 * scale, f"{name}: {error:.3g} of {scale:.3g}"


def test_prefixes_are_shared_where_attention_is_full() -> None:
    sharing = {family for family in FAMILIES if can_share_prefix(make_model(family, 2))}
    assert {"llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "olmo2", "qwen3_moe"} <= sharing
    assert not sharing & WINDOWED


def test_the_prompt_carries_no_loss() -> None:
    """A model that is sure of every target token has no loss, whatever it thinks of the prompt."""

    class Sure(nn.Module):
        config = None

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool):  # type: ignore[no-untyped-def]
            following = torch.roll(input_ids, -1, dims=1)
            logits = 100.0 * nn.functional.one_hot(following, 50).float()
            logits[:, :3] = 0.0  # what follows prompt tokens 0, 1, 2 is anybody's guess
            return type("Output", (), {"logits": logits})

    sequence = Encoded((7, 8, 9, 10, 11, 12), 4, "a")
    batch = micro_batches([sequence], 100, share_prefix=False)[0]
    assert target_nll(Sure(), batch).item() == pytest.approx(0.0, abs=1e-6)
    earlier = micro_batches([Encoded(sequence.ids, 3, "a")], 100, share_prefix=False)[0]
    assert target_nll(Sure(), earlier).item() == pytest.approx(math.log(50), rel=1e-5)


def test_heads_are_found_and_what_they_cannot_say_is_left_to_the_model() -> None:
    for family in FAMILIES:
        head = head_of(make_model(family, 3))
        assert head is not None, family
        assert (head.softcap is not None) == (family == "gemma2"), family
    scaled = transformers.CohereConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        logit_scale=0.5,
    )
    model = transformers.CohereForCausalLM(scaled)
    assert head_of(model) is None, "its logits are half of the head's products"
    sequence = Encoded((7, 8, 9, 10, 11, 12), 4, "a")
    batch = micro_batches([sequence], 100, share_prefix=False)[0]
    assert target_nll(model, batch).item() == pytest.approx(literal_nll(model, sequence).item())
    hooked = make_model("llama", 3)
    hooked.get_output_embeddings().register_forward_hook(lambda *_: None)
    assert head_of(hooked) is None


def test_finding_the_head_draws_no_random_number() -> None:
    model = make_model("gpt2", 3)
    model.config.resid_pdrop = 0.5
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train()
    batch = micro_batches(
        random_sequences(1, model.config.vocab_size, 0), 10_000, share_prefix=False
    )[0]
    found = []
    for _ in range(2):  # the second time the head is known
        torch.manual_seed(5)
        found.append(target_nll(model, batch).item())
    assert found[0] == found[1]


def test_a_head_that_was_replaced_is_found_again() -> None:
    model = make_model("llama", 3)
    first = head_of(model)
    model.set_output_embeddings(nn.Linear(model.config.hidden_size, 7, bias=True))
    second = head_of(model)
    assert first is not None
    assert second is not None
    assert second.layer is not first.layer


def test_autocast_reaches_the_product() -> None:
    """Under autocast the head multiplies in 16 bits; so does the op that stands for it."""
    model = make_model("llama", 3)
    forward = model.forward

    def narrow(*args: object, **kwargs: object) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **kwargs)

    batch = micro_batches(
        random_sequences(1, model.config.vocab_size, 0), 10_000, share_prefix=False
    )[0]
    exact = target_nll(model, batch).item()
    model.forward = narrow
    got = target_nll(model, batch)
    got.backward()
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    assert logits.dtype == torch.bfloat16
    wanted = batch.is_target[:, 1:]
    plain = nn.functional.cross_entropy(
        logits[:, :-1][wanted].float(), batch.ids[:, 1:][wanted], reduction="sum"
    )
    assert got.item() == pytest.approx(plain.item(), rel=1e-6)
    assert got.item() != pytest.approx(exact, rel=1e-6)
    assert model.get_output_embeddings().weight.grad is not None
