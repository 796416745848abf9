"""What tokens spell: the table against the tokenizers' own decoding."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import fastsi
from fastsi.errors import ConfigError
from fastsi.ops import TokenBytes
from fastsi.vote import vote, vote_answers

PIECES = [
    "<s>",
    "\u2581The",
    "\u2581answer",
    "\u2581is",
    "\u2581",
    "1",
    "8",
    ".",
    "\u00e9",
    "\u2581\u2581",
]


def bundled() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(Path(fastsi.__file__).parent / "assets" / "base")


def sentencepiece(*steps: object) -> PreTrainedTokenizerFast:
    """A tokenizer with byte fallback, decoded by ``steps``."""
    names = [*PIECES, *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True)
    made = Tokenizer(model)
    made.decoder = decoders.Sequence(list(steps))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", clean_up_tokenization_spaces=False
    )


def llama() -> PreTrainedTokenizerFast:
    return sentencepiece(
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    )


def gemma() -> PreTrainedTokenizerFast:
    return sentencepiece(decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse())


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE with an added token that is not special and one that is."""
    letters = [chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))]
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.decoder = decoders.ByteLevel()
    made.add_tokens(["<tool call>", "\u00e9\u4e2d"])
    made.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("make", [bundled, llama, gemma, byte_level])
def test_a_table_decodes_as_its_tokenizer(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = make()
    table = TokenBytes.from_tokenizer(tokenizer)
    assert table.size == len(tokenizer)
    rng = random.Random(11)
    for _ in range(500):
        tokens = rng.choices(range(table.size), k=rng.randint(0, 40))
        assert table.decode(tokens) == tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("make", [bundled, llama, gemma, byte_level])
def test_cpu_spells_as_the_table(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    """Whatever the paths spell, C++ must read what `decode` reads: each is one group of its own."""
    table = TokenBytes.from_tokenizer(make())
    rng = random.Random(12)
    paths = [rng.choices(range(table.size), k=rng.randint(0, 12)) for _ in range(500)]
    got = vote_answers(
        torch.tensor([token for path in paths for token in path], dtype=torch.int32),
        torch.tensor([0, *map(len, paths)]).cumsum(0),
        torch.arange(len(paths) + 1),
        table,
        backend="cpu",
    )
    for found, path in zip(got.to_votes(), paths, strict=True):
        assert found == vote([table.decode(path)])


def test_the_bundled_tokenizer_round_trips_an_answer() -> None:
    tokenizer = bundled()
    tokens = tokenizer("She has 5 + 13 = 18. The answer is 18.")["input_ids"]
    got = vote_answers(
        torch.tensor(tokens),
        torch.tensor([0, len(tokens)]),
        torch.tensor([0, 1]),
        TokenBytes.from_tokenizer(tokenizer),
    )
    assert got.keys == ["num:18"]


def test_tokenizers_that_do_not_spell_token_by_token_are_refused() -> None:
    metaspace = sentencepiece(decoders.Metaspace())
    with pytest.raises(ConfigError, match="the step Metaspace"):
        TokenBytes.from_tokenizer(metaspace)
    word_pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    word_pieces.decoder = decoders.WordPiece()
    with pytest.raises(ConfigError, match="the step WordPiece"):
        TokenBytes.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=word_pieces))
    with pytest.raises(ConfigError, match="not a fast one"):
        TokenBytes.from_tokenizer(object())


def test_a_tokenizer_that_decodes_otherwise_is_refused() -> None:
    class Shouting(PreTrainedTokenizerFast):
        def decode(self, *args: object, **kwargs: object) -> str:
            return str(super().decode(*args, **kwargs)).upper()

    tokenizer = Shouting(tokenizer_object=bundled().backend_tokenizer)
    with pytest.raises(ConfigError, match="to another text"):
        TokenBytes.from_tokenizer(tokenizer)


def test_decode_refuses_unknown_ids() -> None:
    table = TokenBytes.from_parts([b"a"], [0])
    for token in (-1, 1):
        with pytest.raises(ValueError, match=f"{token} is not a token id"):
            table.decode([token])


def test_a_table_moves_to_a_device_with_what_is_known_of_it() -> None:
    table = TokenBytes.from_parts([b"ab", b"cde", b""], [0, 1, 2], strip_first_blank=True)
    moved = table.to("cpu")
    assert (moved.longest, moved.size, moved.strip_first_blank) == (3, 3, True)
    assert moved.decode([0, 2]) == "ab"
    assert TokenBytes.from_parts([], []).longest == 0
