"""Token ids to text, and the search for stop strings while a path grows."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from fastsi.engine.requests import PathState
from fastsi.types import SamplingParams

_MARGIN_TOKENS = 4
"""Tokens decoded beyond a stop string's length, so that a character cut at the window's left edge
lies before any match."""


class Detokenizer:
    """Decodes with the model's tokenizer, exactly as it decodes a whole sequence."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer

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

    def find_stop(self, tokens: Sequence[int], params: SamplingParams) -> tuple[str, int] | None:
        """The first stop string in the text of ``tokens`` and where the text then ends, characters.

        Only the end of the sequence is decoded unless something is found there: every token that
        shows adds a byte at least, so a stop string of b bytes ends within its last b tokens.
        """
        longest = max(len(stop.encode()) for stop in params.stop)
        window = tokens[-(longest + _MARGIN_TOKENS) :]
        tail = self.decode(window, skip_special_tokens=params.skip_special_tokens)
        if not any(stop in tail for stop in params.stop):
            return None
        text = self.decode(tokens, skip_special_tokens=params.skip_special_tokens)
        found = [(text.find(stop), stop) for stop in params.stop if stop in text]
        if not found:
            return None
        at, stop = min(found)
        return stop, at + len(stop) * params.include_stop_str_in_output
