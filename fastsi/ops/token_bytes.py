"""What a tokenizer's tokens spell, as one table of bytes: text without calling the tokenizer.

A table is made once per tokenizer, and compared with the tokenizer's own decoding of random ids.
It serves fast tokenizers whose decoder spells every token by itself: byte-level BPE (GPT-2, Llama
3, Qwen, SmolLM2) and sentencepiece BPE with byte fallback (Llama 2, Mistral, Gemma).
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastsi.errors import ConfigError

SKIPPED = 1
"""Flag of a special token, which text leaves out."""
BYTE = 2
"""Flag of a byte-fallback token such as ``<0x0A>``."""
_TRIALS = 64


@dataclass(frozen=True, eq=False)
class TokenBytes:
    """Bytes of every token id.

    Bytes of a token that are no UTF-8 may complete its neighbours'. Runs of byte-fallback tokens
    that are no UTF-8 read as one U+FFFD per token, as in the ``tokenizers`` library.
    """

    data: torch.Tensor
    """uint8 [B]: the bytes of all tokens, one after the other; B < 2**31."""
    offsets: torch.Tensor
    """int64 [vocab + 1]: token t spells ``data[offsets[t]:offsets[t + 1]]``."""
    flags: torch.Tensor
    """uint8 [vocab]: `SKIPPED`, `BYTE`, or 0."""
    strip_first_blank: bool = False
    """Whether a blank at the start of a text is left out."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> TokenBytes:
        """The table of a transformers tokenizer.

        Raises:
            ConfigError: the tokenizer decodes in a way that a table cannot; the message says how.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError(
                f"tokenizer {type(tokenizer).__name__}: is not a fast one, so what its tokens "
                "spell is not known; decode and use fastsi.vote.vote"
            )
        settings = json.loads(backend.to_str())
        spell = _speller(settings.get("decoder") or {})
        size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        special = {token["id"] for token in settings["added_tokens"] if token["special"]}
        parts, flags = [], []
        for token_id in range(size):
            token = backend.id_to_token(token_id)
            spelled, flag = (b"", SKIPPED) if token is None else spell(token)
            parts.append(spelled)
            flags.append(SKIPPED if token_id in special else flag)
        table = cls.from_parts(parts, flags, strip_first_blank=spell.strip)
        table._compare(tokenizer)
        return table

    @classmethod
    def from_parts(
        cls, parts: Sequence[bytes], flags: Sequence[int], *, strip_first_blank: bool = False
    ) -> TokenBytes:
        """The table of tokens that spell ``parts``, in order of their ids."""
        lengths = torch.tensor([0, *map(len, parts)], dtype=torch.int64)
        return cls(
            data=torch.frombuffer(bytearray(b"".join(parts) or b"\0"), dtype=torch.uint8),
            offsets=lengths.cumsum(0),
            flags=torch.tensor(list(flags), dtype=torch.uint8),
            strip_first_blank=strip_first_blank,
        )

    @functools.cached_property
    def longest(self) -> int:
        """Bytes of the longest token; found once, since on a GPU the host waits for it."""
        return int(self.offsets.diff().max()) if self.size else 0

    def to(self, device: torch.device | str) -> TokenBytes:
        """The same table on a device."""
        made = TokenBytes(
            data=self.data.to(device),
            offsets=self.offsets.to(device),
            flags=self.flags.to(device),
            strip_first_blank=self.strip_first_blank,
        )
        vars(made)["longest"] = self.longest
        return made

    @property
    def size(self) -> int:
        """Number of token ids."""
        return self.flags.shape[0]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, special ones left out."""
        data, offsets = self.data.numpy(), self.offsets.numpy()
        flags = self.flags.numpy()
        text, run = bytearray(), bytearray()
        for token in tokens:
            if not 0 <= token < self.size:
                raise ValueError(f"tokens: {token} is not a token id, must be in [0, {self.size})")
            if flags[token] & SKIPPED:
                continue
            spelled = data[offsets[token] : offsets[token + 1]].tobytes()
            if flags[token] & BYTE:
                run += spelled
                continue
            text += _run_text(run) + spelled
            run.clear()
        text += _run_text(run)
        if self.strip_first_blank and text.startswith(b" "):
            del text[0]
        return text.decode("utf-8", "replace")

    def spell(self, tokens: Sequence[int], *, skip_special: bool = True) -> bytes:
        """The bytes of ``tokens``, one after the other; ids beyond the table spell nothing."""
        data, offsets = self.data.numpy(), self.offsets.tolist()
        known = [t for t in tokens if t < self.size]
        kept = [t for t in known if not (skip_special and self.flags[t] & SKIPPED)]
        return b"".join(data[offsets[t] : offsets[t + 1]].tobytes() for t in kept)

    def _compare(self, tokenizer: Any) -> None:
        """Refuse a tokenizer that decodes random tokens to another text."""
        rng = random.Random(0)
        ids = range(self.size)
        for trial in range(_TRIALS if self.size else 0):
            tokens = rng.choices(ids, k=1 + trial)
            wanted = tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            if self.decode(tokens) != wanted:
                raise ConfigError(
                    f"tokenizer {type(tokenizer).__name__}: decodes {tokens[:8]}... to another "
                    "text than its tokens spell one by one; decode and use fastsi.vote.vote"
                )


def _run_text(run: bytearray) -> bytes:
    try:
        run.decode()
    except UnicodeDecodeError:
        return "\ufffd".encode() * len(run)
    return bytes(run)


@dataclass(frozen=True, slots=True)
class _Speller:
    """Bytes and flag of one token, under a decoder."""

    letters: Mapping[str, int] | None = None
    """Byte of each letter, for byte-level BPE."""
    replaced: tuple[str, str] | None = None
    """What stands for a blank, and the blank."""
    fallback: bool = False
    """Whether ``<0x0A>`` is a byte."""
    strip: bool = False
    """Whether the text loses a first blank."""

    def __call__(self, token: str) -> tuple[bytes, int]:
        if self.letters is not None:
            if all(letter in self.letters for letter in token):
                return bytes(self.letters[letter] for letter in token), 0
            return token.encode(), 0  # an added token
        if self.fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)]), BYTE
        return (token.replace(*self.replaced) if self.replaced else token).encode(), 0


def _speller(decoder: Mapping[str, Any]) -> _Speller:
    """How a decoder, in the tokenizers library's JSON, spells a token.

    Raises:
        ConfigError: another decoder than those the module names.
    """
    replaced, fallback, strip = None, False, False
    steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel" and len(steps) == 1:
            return _Speller(letters=_byte_letters())
        if kind == "Replace" and replaced is None and "String" in step["pattern"]:
            replaced = (step["pattern"]["String"], step["content"])
        elif kind == "ByteFallback":
            fallback = True
        elif kind == "Strip" and (step["content"], step["start"], step["stop"]) == (" ", 1, 0):
            strip = True
        elif kind != "Fuse":
            raise ConfigError(
                f"tokenizer: its decoder has the step {kind}, which does not spell every token by "
                "itself; decode and use fastsi.vote.vote"
            )
    return _Speller(replaced=replaced, fallback=fallback, strip=strip)


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level BPE (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): b for i, b in enumerate(others)}
