"""From examples to padded batches: nothing lost, nothing added, boundaries where they belong."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.train.batches import (
    SHORTEST_SHARED,
    Encoded,
    common_prefix,
    draw_batches,
    encode,
    micro_batches,
)
from fastsi.train.sampler import encode_prompt
from tests.support.tiny_models import BYTE_VOCAB, EOS, byte_tokenizer

tokens = st.integers(3, BYTE_VOCAB - 1)


@st.composite
def encoded(draw: st.DrawFn) -> Encoded:
    shared = draw(st.sampled_from([0, 5, SHORTEST_SHARED, 40]))
    prompt = [7] * shared + draw(st.lists(tokens, min_size=1, max_size=12))
    target = draw(st.lists(tokens, min_size=1, max_size=12))
    return Encoded(tuple(prompt + target), len(prompt), draw(st.sampled_from(["a", "b"])))


@given(st.lists(encoded(), min_size=1, max_size=12), st.integers(1, 300), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_sequence_is_in_one_row_of_one_pass(
    sequences: list[Encoded], max_tokens: int, share: bool
) -> None:
    found: list[tuple[tuple[int, ...], int]] = []
    for batch in micro_batches(sequences, max_tokens, share_prefix=share):
        prefix = batch.prefix.tolist()
        assert not prefix or (share and len(prefix) >= SHORTEST_SHARED)
        rows, width = batch.ids.shape
        assert rows == 1 or len(prefix) + rows * width <= max_tokens
        for row in range(rows):
            length = int(batch.mask[row].sum())
            assert batch.mask[row, :length].all()
            assert not batch.mask[row, length:].any()
            assert not batch.ids[row, length:].any()
            start = int(batch.is_target[row].int().argmax())
            assert start > 0, "the first target needs a token before it"
            assert batch.is_target[row, start:length].all()
            assert int(batch.is_target[row].sum()) == length - start
            ids = tuple(prefix + batch.ids[row, :length].tolist())
            found.append((ids, len(prefix) + start))
    assert Counter(found) == Counter((s.ids, s.prompt_tokens) for s in sequences)


@given(st.lists(encoded(), min_size=1, max_size=6))
def test_the_common_prefix_is_the_longest(sequences: list[Encoded]) -> None:
    length = common_prefix(sequences)
    assert len({s.ids[:length] for s in sequences}) == 1
    at_limit = length == min(s.prompt_tokens for s in sequences) - 1
    assert at_limit or len({s.ids[: length + 1] for s in sequences}) > 1


@pytest.mark.parametrize("seed", [0, 5])
def test_batches_are_passes_over_all_examples_in_a_seeded_order(seed: int) -> None:
    def draw(steps: int) -> list[list[int]]:
        return list(draw_batches(10, 4, steps, torch.Generator().manual_seed(seed)))

    flat = [index for batch in draw(10) for index in batch]
    assert all(sorted(flat[start : start + 10]) == list(range(10)) for start in range(0, 40, 10))
    assert draw(10)[:6] == draw(6), "the order does not depend on the number of steps"
    assert flat[:10] != flat[10:20]
    other = draw_batches(10, 4, 10, torch.Generator().manual_seed(seed + 1))
    assert flat != [index for batch in other for index in batch]


def test_more_per_step_than_there_are_examples_repeats_them() -> None:
    batches = list(draw_batches(3, 7, 2, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [7, 7]
    assert set(batches[0]) == {0, 1, 2}


def test_a_busy_pass_takes_no_much_shorter_sequence() -> None:
    long = [Encoded((5,) * 600, 10, "a") for _ in range(2)]
    short = [Encoded((5,) * 20, 10, "a") for _ in range(2)]
    widths = [b.ids.shape for b in micro_batches([*short, *long], 4096, share_prefix=False)]
    assert widths == [(2, 600), (2, 20)]


def test_an_example_is_prompt_target_and_end() -> None:
    coder = byte_tokenizer()
    example = encode(coder, "Q: 1?\nA:", " It is 1.", "cot", add_special_tokens=True)
    start = coder("Q: 1?\nA:")["input_ids"]
    assert example.ids == (*start, *coder(" It is 1.")["input_ids"], EOS)
    assert example.prompt_tokens == len(start)


class Merging:
    """A tokenizer that merges "A:" with what follows and may add marks at both ends."""

    eos_token_id = 1

    def __init__(self, *, marks: bool) -> None:
        self.marks = marks

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [ord(c) for c in text.replace("A: ", "\uffff").replace("A:", "\ufffe")]
        return {"input_ids": [0, *ids, 1] if self.marks and add_special_tokens else ids}


@pytest.mark.parametrize("marks", [False, True])
def test_the_prompt_is_the_sampled_one_whatever_the_tokenizer_merges(marks: bool) -> None:
    coder = Merging(marks=marks)
    prompt = encode_prompt(coder, "Q\nA:", True)
    example = encode(coder, "Q\nA:", " 9", "cot", add_special_tokens=True)
    assert list(example.ids[: example.prompt_tokens]) == prompt
    assert list(example.ids[example.prompt_tokens :]) == [ord(" "), ord("9"), 1]
