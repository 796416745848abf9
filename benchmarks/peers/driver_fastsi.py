"""Driver: fastsi, with any of the engine's options."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from _protocol import Work, serve

from fastsi import SamplingParams
from fastsi.engine import LLM


class Fastsi:
    """The engine on the same folder of weights as the peers."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.llm = LLM(settings["folder"], **settings.get("options", {}))

    def run(self, work: Work) -> list[list[int]]:
        """See `_protocol.Peer.run`."""
        self.llm.reset_prefix_cache()
        self.llm.reset_stats()
        params = SamplingParams(
            n=work.n,
            temperature=work.temperature,
            max_tokens=work.new_tokens,
            ignore_eos=True,
            seed=work.seed,
        )
        prompts = [{"prompt_token_ids": prompt} for prompt in work.prompts]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [list(path.token_ids) for output in outputs for path in output.outputs]

    def details(self) -> dict[str, Any]:
        """Where the time of the last call went."""
        return {"stats": self.llm.stats()}


if __name__ == "__main__":
    serve(Fastsi, "fastsi", "torch", "transformers")
