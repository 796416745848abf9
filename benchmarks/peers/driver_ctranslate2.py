"""Driver: CTranslate2, on a folder made by its converter."""

from __future__ import annotations

from typing import Any

import ctranslate2
from _protocol import Work, serve
from transformers import AutoTokenizer


class CTranslate2:
    """`generate_batch` with ``num_hypotheses``: all rows of a prompt in one call."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.generator = ctranslate2.Generator(
            settings["path"],
            device="cpu",
            compute_type=settings.get("compute_type", "float32"),
            intra_threads=settings["threads"],
        )
        self.tokenizer = AutoTokenizer.from_pretrained(settings["folder"])

    def run(self, work: Work) -> list[list[int]]:
        """See `_protocol.Peer.run`."""
        how: dict[str, Any] = {"sampling_topk": 1}
        if work.temperature > 0:
            how = {"sampling_topk": 0, "sampling_temperature": work.temperature}
        ctranslate2.set_random_seed(work.seed)
        rows = []
        for prompt in work.prompts:
            result = self.generator.generate_batch(
                [self.tokenizer.convert_ids_to_tokens(prompt)],
                num_hypotheses=work.n,
                max_length=work.new_tokens,
                min_length=work.new_tokens,
                include_prompt_in_result=False,
                end_token=[],
                **how,
            )
            rows += result[0].sequences_ids
        return rows


if __name__ == "__main__":
    serve(CTranslate2, "ctranslate2", "transformers")
