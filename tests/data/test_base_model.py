"""The bundled base model: its folder, its tokenizer, and that it is competent and inconsistent."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import fastsi.data.stories as stories_module
from fastsi.data.stories import Care, Story, make_problems

BASE = Path(stories_module.__file__).parents[1] / "assets" / "base"
CARES = get_args(Care)


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(BASE, local_files_only=True)


@pytest.fixture(scope="module", name="model")
def _model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(BASE, local_files_only=True).eval()


def prompt(story: Story) -> str:
    return f"Q: {story.question}\nA:"


def test_the_folder_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in BASE.iterdir()}
    assert set(files) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= 10 * 2**20


def test_the_architecture_is_a_small_llama(model: LlamaForCausalLM) -> None:
    assert isinstance(model, LlamaForCausalLM)
    assert 0.7e6 <= model.num_parameters() <= 1.5e6
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_generation_config_sets_no_sampling_defaults(model: LlamaForCausalLM) -> None:
    """A saved top_k or temperature would silently bend what users sample."""
    saved = json.loads((BASE / "generation_config.json").read_text())
    assert set(saved) == {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}
    assert saved["eos_token_id"] == model.config.eos_token_id


def test_special_tokens_agree(tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM) -> None:
    config = model.config
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.model_max_length == config.max_position_embeddings
    assert tokenizer.eos_token_id == config.eos_token_id
    assert tokenizer.bos_token_id == config.bos_token_id
    assert tokenizer.pad_token_id == config.pad_token_id
    assert len({config.eos_token_id, config.bos_token_id, config.pad_token_id}) == 3


@settings(deadline=None, max_examples=300)
@given(text=st.text(max_size=80))
def test_decoding_gives_any_text_back(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE, local_files_only=True)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("seed", [0, 1])
def test_stories_survive_the_tokenizer_digit_by_digit(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    for story in make_problems("evaluate", 300, seed):
        text = prompt(story) + " " + story.careful
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        pieces = [tokenizer.decode([token]) for token in ids]
        digits = [piece for piece in pieces if re.search(r"\d", piece)]
        assert digits == re.findall(r"\d", text)


@pytest.mark.parametrize("announcement", ["", " Let's think step by step."])
def test_tokens_of_a_prompt_begin_the_tokens_of_prompt_and_solution(
    tokenizer: PreTrainedTokenizerFast, announcement: str
) -> None:
    """Otherwise training on (prompt, target) would differ from sampling after the prompt."""
    for story in make_problems("evaluate", 300, seed=2):
        start = prompt(story) + announcement
        ids = tokenizer(start)["input_ids"]
        for care in CARES:
            solution = " " + story.solution(care)
            whole = tokenizer(start + solution)["input_ids"]
            assert whole == ids + tokenizer(solution)["input_ids"]


def test_prompts_and_solutions_are_short(tokenizer: PreTrainedTokenizerFast) -> None:
    for story in make_problems("evaluate", 2000, seed=3):
        assert len(tokenizer(prompt(story))["input_ids"]) <= 70
        assert len(tokenizer(" " + story.careful)["input_ids"]) <= 80


def sample(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    stories: list[Story],
    paths: int,
) -> list[list[str | None]]:
    """Answers of each story's paths; one path decodes greedily, more are drawn at T = 1."""
    batch = tokenizer([prompt(s) for s in stories], return_tensors="pt", padding=True)
    torch.manual_seed(0)
    ids = model.generate(
        **batch,
        do_sample=paths > 1,
        num_return_sequences=paths,
        max_new_tokens=80,
        top_k=0,
    )
    texts = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    found = [re.search(r"The answer is (.+)\.$", text) for text in texts]
    answers = [match and match[1] for match in found]
    return [answers[i * paths : (i + 1) * paths] for i in range(len(stories))]


def test_the_model_is_competent_and_inconsistent(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """What a label-free round needs: the majority is right far more often than greedy."""
    stories = make_problems("evaluate", 60, seed=4)
    greedy = sample(model, tokenizer, stories, 1)
    paths = sample(model, tokenizer, stories, 16)
    pairs = list(zip(stories, paths, strict=True))
    votes = [Counter(a for a in p if a is not None).most_common(1)[0] for p in paths]
    greedy_right = sum(p[0] == s.answer for s, p in zip(stories, greedy, strict=True))
    vote_right = sum(v[0] == s.answer for s, v in zip(stories, votes, strict=True))
    parsed = sum(a is not None for p in paths for a in p)
    assert vote_right >= greedy_right + 0.1 * len(stories)
    assert vote_right >= 0.3 * len(stories)
    assert parsed >= 0.9 * 16 * len(stories)
    consistency = sum(count for _, count in votes) / (16 * len(stories))
    assert consistency <= 0.6
    # One path is worth less than the vote too: the gain is not greedy decoding's weakness alone.
    one_right = sum(a == s.answer for s, p in pairs for a in p) / 16
    assert vote_right >= one_right + 0.1 * len(stories)
