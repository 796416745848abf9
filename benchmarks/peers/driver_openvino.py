"""Driver: OpenVINO GenAI's continuous batching pipeline, on a GGUF file or an exported folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from _protocol import Work, serve


class OpenVINO:
    """Prefix caching on; ``properties`` go to the CPU plugin (such as the inference precision)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = settings.get("rows", 256)
        scheduler.max_num_batched_tokens = settings.get("batched_tokens", 2048)
        scheduler.cache_size = settings.get("cache_gb", 3)
        properties = dict(settings.get("properties", {}))
        self.pipeline = genai.ContinuousBatchingPipeline(
            settings["path"], scheduler, "CPU", properties
        )

    def run(self, work: Work) -> list[list[int]]:
        """See `_protocol.Peer.run`."""
        config = genai.GenerationConfig()
        config.max_new_tokens = work.new_tokens
        config.min_new_tokens = work.new_tokens
        config.ignore_eos = True
        config.num_return_sequences = work.n
        config.do_sample = work.temperature > 0
        if config.do_sample:
            config.temperature = work.temperature
            config.top_k = 2**31 - 1
            config.top_p = 1.0
            config.rng_seed = work.seed
        ids = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in work.prompts]
        results = self.pipeline.generate(ids, [config] * len(ids))
        return [list(row) for result in results for row in result.m_generation_ids]


if __name__ == "__main__":
    serve(OpenVINO, "openvino", "openvino-genai", "optimum-intel", "nncf")
