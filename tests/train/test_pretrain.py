"""Pretraining: same seed same weights, packing that leaks nothing, and a folder that loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastsi.data.stories import make_problems
from fastsi.data.templates import STEP_BY_STEP
from fastsi.errors import ConfigError
from fastsi.train import pretrain as pretrain_module
from fastsi.train.pretrain import (
    IGNORED,
    PretrainConfig,
    build_model,
    documents,
    learning_rate_factor,
    main,
    make_batch,
    pack,
    pretrain,
    train_tokenizer,
)

TINY = PretrainConfig(
    steps=4,
    batch_rows=4,
    warmup_steps=2,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
)


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_module, "_SAMPLE", 300)


def weights(config: PretrainConfig, folder: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    losses: list[float] = []
    pretrain(config, folder, lambda _, loss: losses.append(loss))
    return load_file(folder / "model.safetensors"), losses


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    first, first_losses = weights(TINY, tmp_path / "a")
    again, again_losses = weights(TINY, tmp_path / "b")
    other, _ = weights(dataclasses.replace(TINY, seed=1), tmp_path / "c")
    assert first_losses == again_losses
    assert len(first_losses) == TINY.steps
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[name], other[name])
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (
        tmp_path / "b/tokenizer.json"
    ).read_bytes()


def test_training_lowers_the_loss_on_unseen_text(tmp_path: Path) -> None:
    _, losses = weights(dataclasses.replace(TINY, steps=60, warmup_steps=5), tmp_path)
    assert sum(losses[-5:]) / 5 < losses[0] - 2.0


def test_the_command_writes_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        pretrain_module, "PretrainConfig", lambda **chosen: dataclasses.replace(TINY, **chosen)
    )
    main(["--out", str(tmp_path / "model"), "--steps", "2", "--seed", "3"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    printed = capsys.readouterr().out
    assert "step     1/2" in printed
    assert str(tmp_path / "model") in printed


def test_documents_use_each_story_once_with_the_stated_shares() -> None:
    stories = make_problems("pretrain", 4000, seed=0)
    config = PretrainConfig(at_once=0.5, skipping=0.2, step_by_step=0.3, pages=0.1)
    pages = list(documents(config, stories))
    problems = [problem for page in pages for problem in page.split("\n\n")]
    assert [p.split("\nA:")[0] for p in problems] == [f"Q: {s.question}" for s in stories]
    solutions = [p.split("\nA:")[1] for p in problems]
    cued = [text for text in solutions if text.startswith(f" {STEP_BY_STEP} ")]
    assert abs(len(cued) / 4000 - 0.3) < 0.04
    shares = {
        "at_once": sum("=" not in text for text in solutions) / 4000,
        "skipping": sum(text.count("=") == 1 for text in solutions) / 4000,
    }
    assert abs(shares["at_once"] - 0.5) < 0.04
    assert abs(shares["skipping"] - 0.2) < 0.04
    # The cue tells nothing about the care of what follows.
    assert abs(sum("=" not in text for text in cued) / len(cued) - 0.5) < 0.07
    several = [page for page in pages if "\n\n" in page]
    assert abs(len(several) / len(pages) - 0.1) < 0.02
    assert {page.count("Q: ") for page in several} >= {2, 3, 4}


documents_ids = st.lists(st.lists(st.integers(3, 9), min_size=1, max_size=24), max_size=60)


@settings(deadline=None)
@given(encoded=documents_ids, row_tokens=st.integers(1, 24))
def test_packing_keeps_every_document_that_fits(
    encoded: Sequence[Sequence[int]], row_tokens: int
) -> None:
    rows = pack(encoded, row_tokens)
    assert all(0 < sum(map(len, row)) <= row_tokens for row in rows)
    packed = sorted(tuple(ids) for row in rows for ids in row)
    assert packed == sorted(tuple(ids) for ids in encoded if len(ids) <= row_tokens)


def test_a_packed_document_gets_the_logits_and_the_loss_it_gets_alone() -> None:
    stories = make_problems("pretrain", 60, seed=1)
    texts = list(documents(TINY, stories))
    tokenizer = train_tokenizer(texts, TINY)
    encoded = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    model = build_model(TINY, tokenizer).double().eval()
    rows = pack(encoded, TINY.row_tokens)[:3]
    assert all(len(row) > 1 for row in rows)
    batch = make_batch(rows, TINY.row_tokens, tokenizer.pad_token_id)
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.positions
        ).logits
        for r, row in enumerate(rows):
            start = 0
            for ids in row:
                end = start + len(ids)
                alone = model(input_ids=torch.tensor([ids])).logits[0]
                torch.testing.assert_close(logits[r, start:end], alone, atol=1e-9, rtol=1e-9)
                assert batch.labels[r, start:end].tolist() == [*ids[1:], IGNORED]
                start = end
            assert (batch.labels[r, start:] == IGNORED).all()


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    config = PretrainConfig(steps=200, warmup_steps=20)
    factors = [learning_rate_factor(step, config) for step in range(config.steps)]
    assert factors[0] == 1 / 20
    assert factors[19] == 1.0
    assert factors[:20] == sorted(factors[:20])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("at_once", 1.5), ("kv_heads", -1), ("skipping", 0.6)]
)
def test_bad_settings_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field}={value!r}"):
        PretrainConfig(**{field: value})  # type: ignore[arg-type]
