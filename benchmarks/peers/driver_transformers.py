"""Driver: transformers `generate` with ``num_return_sequences``."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from _protocol import Work, serve

NEVER = 2**30
"""A token id outside every vocabulary: `generate` goes on to the full length."""


class Transformers:
    """One prompt a call, as most scripts do; rows beyond ``rows`` take several calls."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        dtype = getattr(torch, settings.get("dtype", "float32"))
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            settings["folder"], dtype=dtype
        ).eval()
        self.model.generation_config = transformers.GenerationConfig(pad_token_id=0)
        self.rows = settings.get("rows", 64)

    @torch.inference_mode()
    def run(self, work: Work) -> list[list[int]]:
        """See `_protocol.Peer.run`."""
        how: dict[str, Any] = {"do_sample": False}
        if work.temperature > 0:
            how = {"do_sample": True, "temperature": work.temperature, "top_k": 0, "top_p": 1.0}
        torch.manual_seed(work.seed)
        found: list[list[int]] = []
        for prompt in work.prompts:
            for first in range(0, work.n, self.rows):
                ids = torch.tensor([prompt])
                output = self.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=work.new_tokens,
                    num_return_sequences=min(self.rows, work.n - first),
                    eos_token_id=NEVER,
                    **how,
                )
                found += output[:, ids.shape[1] :].tolist()
        return found


if __name__ == "__main__":
    serve(Transformers, "torch", "transformers")
