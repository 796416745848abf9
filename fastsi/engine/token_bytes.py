"""The bytes that each token adds to a text, as a table made once per tokenizer."""

from __future__ import annotations

import json
import re

from transformers import PreTrainedTokenizerBase

from fastsi import ops

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ANCHOR = "a"


def token_bytes(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, *, skip_special_tokens: bool
) -> ops.TokenBytes:
    """Table of the bytes of tokens 0..vocab_size-1 where they stand inside a text.

    Exact for byte-level tokenizers. Others are asked to decode each token after a letter; what they
    do differently elsewhere (a blank left out at the very start) is theirs to say when a whole text
    is decoded, so whoever needs the exact text decodes it.

    Args:
        tokenizer: of the model.
        vocab_size: rows of the model's head; tokens that the tokenizer lacks have no bytes.
        skip_special_tokens: special tokens have no bytes, as when decoding with this setting.
    """
    count = min(len(tokenizer), vocab_size)
    names = tokenizer.convert_ids_to_tokens(list(range(count)))
    if _is_byte_level(tokenizer):
        known = {char: bytes([byte]) for byte, char in enumerate(_byte_level_alphabet())}
        table = [b"".join(known.get(c, c.encode()) for c in name or "") for name in names]
    else:
        table = _by_decoding(tokenizer, names)
    for token, added in tokenizer.added_tokens_decoder.items():
        if token < count:
            table[token] = b"" if added.special and skip_special_tokens else added.content.encode()
    return ops.TokenBytes.make(table + [b""] * (vocab_size - count))


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    decoder = json.loads(backend.to_str())["decoder"] or {}
    parts = decoder.get("decoders", [decoder])
    return [part.get("type") for part in parts] == ["ByteLevel"]


def _byte_level_alphabet() -> list[str]:
    """The character that stands for each byte in GPT-2's byte-level vocabulary."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


def _by_decoding(tokenizer: PreTrainedTokenizerBase, names: list[str | None]) -> list[bytes]:
    anchor = tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"]
    texts = tokenizer.batch_decode(
        [anchor, *([*anchor, token] for token in range(len(names)))],
        clean_up_tokenization_spaces=False,
    )
    before, *after = texts
    table = []
    for name, text in zip(names, after, strict=True):
        byte = _BYTE_TOKEN.fullmatch(name or "")
        table.append(bytes([int(byte[1], 16)]) if byte else text[len(before) :].encode())
    return table
