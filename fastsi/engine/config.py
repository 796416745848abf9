"""Settings of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fastsi.errors import ConfigError

Sharing = Literal["tree", "prefill", "none"]
KVDtype = Literal["auto", "float32", "bfloat16", "int8"]
Graphs = Literal["auto", "capture", "eager", "off"]
LogprobsMode = Literal["raw_logprobs", "full_logprobs", "processed_logprobs"]
_BLOCK = 128
"""Tokens. Smaller blocks share more of unequal prompts, larger ones make fewer spans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How `Engine` batches and caches; `LLM` fills what is "auto" there."""

    kv_cache_tokens: int
    """Capacity of the KV cache, tokens; rounded up to whole pages."""
    max_batch_rows: int
    """Most paths decoding at the same time, rows."""
    max_step_tokens: int
    """Most query tokens of one step: decode rows and prefill chunks together."""
    max_model_len: int
    """Longest prompt plus continuation, tokens."""
    busy_rows: int = 32
    """Rows from which one more costs its arithmetic; below, a step's fixed costs prevail, and paths
    that a controller may not need start on a chance."""
    page_size: int = 16
    """Tokens per KV page."""
    sharing: Sharing = "tree"
    """tree: prompts are prefilled once and attention reads a shared prefix once per group; prefill:
    keys and values are shared but every row reads them for itself; none: every path has its own."""
    logprobs_mode: LogprobsMode = "raw_logprobs"
    """What reported log-probs mean. raw: log-softmax of the model's logits. full: after bias,
    penalties and temperature. processed: after truncation too (what the draw used)."""
    deterministic: bool = False
    """Same bits for a path in every batch: prompts are cut into blocks of fixed size, so that the
    order of attention's sums does not follow from where other prompts differ."""
    pipeline: bool | Literal["auto"] = "auto"
    """Launch a step before the tokens of the last one are on the host; auto: on a GPU. A path is
    the same either way."""
    graphs: Graphs = "auto"
    """Replay steps of up to ``max_batch_rows`` rows as CUDA graphs. auto: on a GPU, where the model
    runs through `FusedDecoder` on backends that can be recorded; capture: wherever it does; eager:
    fill the graphs' buffers and run the ops one by one, on any device, to look for faults."""
    steps_per_call: int = 16
    """Most steps that the extension makes in one call, on a CPU, while no path begins or ends; 1:
    one by one. A path is the same either way. At most ``page_size`` count."""
    seed: int = 0
    """Seed of requests that bring none; mixed with a count of calls."""

    def __post_init__(self) -> None:
        sizes = ("kv_cache_tokens", "max_batch_rows", "max_step_tokens", "max_model_len")
        for name in (*sizes, "page_size", "busy_rows", "steps_per_call"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name}={value!r}: must be an integer >= 1")
        named = (("sharing", Sharing), ("logprobs_mode", LogprobsMode), ("graphs", Graphs))
        for name, choices in named:
            if getattr(self, name) not in get_args(choices):
                names = ", ".join(get_args(choices))
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be one of {names}")
        if self.pipeline != "auto" and not isinstance(self.pipeline, bool):
            raise ConfigError(f"pipeline={self.pipeline!r}: must be auto, True or False")
        if not isinstance(self.seed, int) or abs(self.seed) >= 2**63:
            raise ConfigError(f"seed={self.seed!r}: must be a 64-bit integer")

    @property
    def prefix_block(self) -> int | None:
        """Tokens per node of the prefix tree, whole pages; None: nodes end where prompts differ."""
        return -(-_BLOCK // self.page_size) * self.page_size if self.deterministic else None
