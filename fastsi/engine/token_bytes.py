"""The table of token bytes that `ops.match_stop` reads, for every tokenizer."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from fastsi import ops
from fastsi.errors import ConfigError
from fastsi.ops.token_bytes import SKIPPED

_ANCHOR = "a"


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> ops.TokenBytes:
    """Bytes of every token where it stands inside a text.

    Where `ops.TokenBytes` does not know the decoder, every token is decoded after a letter. What
    such a tokenizer does elsewhere (a blank left out at the start) is not in the table, so whoever
    needs the exact text decodes it.
    """
    try:
        return ops.TokenBytes.from_tokenizer(tokenizer)
    except ConfigError:
        pass
    anchor = tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"]
    before, *after = tokenizer.batch_decode(
        [anchor, *([*anchor, token] for token in range(len(tokenizer)))],
        clean_up_tokenization_spaces=False,
    )
    parts = [text[len(before) :].encode() for text in after]
    special = set(tokenizer.all_special_ids)
    flags = [SKIPPED if token in special else 0 for token in range(len(parts))]
    return ops.TokenBytes.from_parts(parts, flags)
