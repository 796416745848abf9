"""Token ids to text and to bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from fastsi import ops
from fastsi.engine.requests import PathState
from fastsi.engine.token_bytes import token_bytes


class Detokenizer:
    """Decodes with the model's tokenizer, exactly as it decodes a whole sequence."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._names: dict[int, str] = {}

    @cached_property
    def table(self) -> ops.TokenBytes:
        """The bytes of every token, made when first asked for; needs a tokenizer."""
        assert self._tokenizer is not None
        return token_bytes(self._tokenizer)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``tokens``; empty without a tokenizer."""
        if self._tokenizer is None:
            return ""
        return str(
            self._tokenizer.decode(
                list(tokens),
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    def name(self, token: int) -> str:
        """The text of one token, special ones too."""
        found = self._names.get(token)
        if found is None:
            found = self._names[token] = self.decode([token], skip_special_tokens=False)
        return found

    def path_text(self, path: PathState) -> str:
        """The text of a path that ended, without its stop token or what follows its stop string."""
        if path.text is None:
            params, shown = path.params.params, path.tokens
            by_token = path.finish_reason == "stop" and isinstance(path.stop_reason, int)
            if by_token and not params.include_stop_str_in_output:
                shown = shown[:-1]
            text = self.decode(shown, skip_special_tokens=params.skip_special_tokens)
            path.text = text[: path.text_end]
        return path.text
