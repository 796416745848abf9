"""Checkpoints: what is saved is what comes back, into the same live module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastsi.errors import ArtifactError
from fastsi.train.batches import Encoded
from fastsi.train.checkpoint import (
    fingerprint,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)
from fastsi.train.config import TrainConfig
from fastsi.train.trainer import fine_tune
from tests.support.tiny_models import BYTE_VOCAB, FAMILIES, byte_tokenizer, make_model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None]).logits


def redraw(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.3, 0.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_back_into_the_same_parameters(tmp_path: Path, family: str) -> None:
    model = make_model(family, 5, vocab_size=BYTE_VOCAB)
    expected, before = logits(model), fingerprint(model)
    save_checkpoint(model, byte_tokenizer(), tmp_path / "checkpoint")
    objects = list(model.parameters())
    redraw(model)
    assert fingerprint(model) != before
    load_checkpoint(model, tmp_path / "checkpoint")
    assert fingerprint(model) == before
    assert torch.equal(logits(model), expected)
    assert all(a is b for a, b in zip(objects, model.parameters(), strict=True))


def test_anybody_can_load_the_checkpoint(tmp_path: Path) -> None:
    model = make_model("llama", 5, vocab_size=BYTE_VOCAB)
    save_checkpoint(model, byte_tokenizer(), tmp_path / "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert torch.equal(logits(loaded), logits(model))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert tokenizer("Q: 1?")["input_ids"] == byte_tokenizer()("Q: 1?")["input_ids"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # inside peft
def test_adapters_come_back_without_the_model_they_adapt(tmp_path: Path) -> None:
    base = make_model("llama", 5, vocab_size=BYTE_VOCAB)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    frozen = base.get_input_embeddings().weight.detach().clone()
    examples = [Encoded(tuple(range(3 + i, 40)), 20, "a") for i in range(4)]
    fine_tune(model, examples, TrainConfig(steps=3, batch_size=4, learning_rate=0.05), 0)
    assert torch.equal(base.get_input_embeddings().weight, frozen)
    expected = logits(model)
    save_checkpoint(model, byte_tokenizer(), tmp_path / "adapter")
    assert sum(f.stat().st_size for f in (tmp_path / "adapter").glob("*.safetensors")) < 50_000
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.uniform_(-1, 1)
    assert not torch.allclose(logits(model), expected)
    load_checkpoint(model, tmp_path / "adapter")
    assert torch.equal(logits(model), expected)


def test_marks_of_a_dequantised_gguf_model_do_not_block_saving(tmp_path: Path) -> None:
    model = make_model("llama", 5, vocab_size=BYTE_VOCAB)
    mark = {"quant_method": "gguf"}
    model.config.quantization_config = mark
    save_checkpoint(model, byte_tokenizer(), tmp_path / "checkpoint")
    assert model.config.quantization_config is mark
    assert "quantization" not in (tmp_path / "checkpoint" / "config.json").read_text()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(make_model("llama", 5, vocab_size=BYTE_VOCAB), byte_tokenizer(), tmp_path / "c")
    other = make_model("llama", 6, vocab_size=BYTE_VOCAB)
    with pytest.raises(ArtifactError, match="cannot load the checkpoint"):
        load_checkpoint(other, tmp_path / "c")
    with pytest.raises(ArtifactError, match="cannot load the checkpoint"):
        load_checkpoint(other, tmp_path / "absent")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_fingerprints_tell_weights_apart(family: str) -> None:
    seen = {fingerprint(make_model(family, seed)) for seed in (0, 0, 1, 2)}
    assert len(seen) == 3


def test_states_round_trip_and_belong_to_one_training(tmp_path: Path) -> None:
    state = {"identity": "a", "done": 3, "weights": [torch.arange(5.0)], "none": None}
    save_state(tmp_path / "state", state)
    found = load_state(tmp_path / "state", "a")
    assert found is not None
    assert found["done"] == 3
    assert torch.equal(found["weights"][0], torch.arange(5.0))
    assert load_state(tmp_path / "state", "b") is None
    assert load_state(tmp_path / "absent", "a") is None


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        Exception("No space left on device (os error 28)"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    class Model(torch.nn.Module):
        config = type("Config", (), {})()

        def save_pretrained(self, folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(b"half")
            raise error

    with pytest.raises(ArtifactError, match="No space left on device") as caught:
        save_checkpoint(Model(), byte_tokenizer(), tmp_path / "checkpoint")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
