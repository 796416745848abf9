"""The models that other tests compare with must themselves be worth comparing with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compare import (
    assert_same_paths,
    assert_within_reference_error,
    first_difference,
    greedy_reference,
    max_error,
)
from tests.support.tiny_models import (
    BYTE_VOCAB,
    EOS,
    FAMILIES,
    byte_tokenizer,
    make_config,
    make_model,
    sample_prompts,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_continuations_are_varied_and_equal_across_precisions(family: str) -> None:
    single, double = make_model(family, 3), make_model(family, 3, dtype=torch.float64)
    prompts = sample_prompts(np.random.default_rng(3), single.config.vocab_size, 3, min_tokens=6)
    left = greedy_reference(single, prompts, max_tokens=32)
    right = greedy_reference(double, prompts, max_tokens=32)
    assert len({tuple(result.tokens) for result in left}) == 3
    assert max(len(set(result.tokens)) for result in left) >= 6
    for a, b in zip(left, right, strict=True):
        at = first_difference(a.tokens, b.tokens)
        # Rounding may settle a near-tie differently; nothing else may differ.
        assert at is None or b.margins[at] < 1e-3
    assert all(p.dtype == torch.float64 for p in double.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_fixes_the_model(family: str) -> None:
    first, again = make_model(family, 5), make_model(family, 5)
    assert first.config.to_dict() == again.config.to_dict()
    assert all(map(torch.equal, first.parameters(), again.parameters()))


def test_seeds_cover_grouped_and_plain_heads_and_windows() -> None:
    configs = [make_config("mistral", seed) for seed in range(12)]
    groups = {c.num_attention_heads // c.num_key_value_heads for c in configs}
    assert {1, 2} <= groups
    assert len({c.sliding_window for c in configs}) > 3


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_byte_tokenizer_round_trips_any_text(text: str) -> None:
    tokenizer = _TOKENIZER
    ids = tokenizer(text)["input_ids"]
    if not any(special in text for special in ("<pad>", "<s>", "</s>")):
        assert ids == [byte + 3 for byte in text.encode()]
    assert tokenizer.decode(ids) == text


_TOKENIZER = byte_tokenizer()


def test_byte_tokenizer_knows_special_tokens_and_chat() -> None:
    assert len(_TOKENIZER) == BYTE_VOCAB
    assert _TOKENIZER("a</s>")["input_ids"] == [ord("a") + 3, EOS]
    chat = [{"role": "user", "content": "2+2?"}]
    text = _TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<user>2+2?\n<assistant>"


def test_prompts_are_ragged_and_share_what_was_asked() -> None:
    prompts = sample_prompts(np.random.default_rng(0), 97, 20, max_tokens=9, shared_tokens=7)
    assert {len(prompt) for prompt in prompts} == set(range(8, 17))
    assert len({tuple(prompt[:7]) for prompt in prompts}) == 1
    assert all(3 <= token < 97 for prompt in prompts for token in prompt)


def test_comparisons_complain() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2], [1, 2, 3]) == 2
    with pytest.raises(AssertionError, match="path 1 differs at token 0"):
        assert_same_paths([[1], [2]], [[1], [3]], "sharing")
    inf = float("inf")
    assert max_error(torch.tensor([-inf, 1.0]), torch.tensor([-inf, 1.5])) == 0.5
    assert max_error(torch.tensor([float("nan")]), torch.tensor([0.0])) == inf
    exact = torch.tensor([1.0], dtype=torch.float64)
    assert_within_reference_error(torch.tensor([1.1]), torch.tensor([1.1]), exact)
    with pytest.raises(AssertionError, match="allowed"):
        assert_within_reference_error(torch.tensor([1.3]), torch.tensor([1.1]), exact)
