"""Driver: llama.cpp through llama-cpp-python's low-level batch interface.

The shared prefix is evaluated once and given to the other sequences by `llama_memory_seq_cp`; then
every step decodes one token of each sequence. Prompts of one call must begin alike.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as lib
from _protocol import Work, serve

CHUNK = 2048


class LlamaCpp:
    """One context whose cells all sequences share."""

    def __init__(self, settings: dict[str, Any]) -> None:
        lib.llama_backend_init()
        self.most = min(settings.get("rows", 256), lib.llama_max_parallel_sequences())
        self.model = lib.llama_model_load_from_file(
            settings["path"].encode(), lib.llama_model_default_params()
        )
        params = lib.llama_context_default_params()
        params.n_ctx = settings.get("cells", 32768)
        params.n_batch = params.n_ubatch = CHUNK
        params.n_seq_max = self.most
        params.n_threads = params.n_threads_batch = settings["threads"]
        params.kv_unified = True
        params.no_perf = True
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama_init_from_model failed")
        self.memory = lib.llama_get_memory(self.context)
        self.batch = lib.llama_batch_init(CHUNK, 0, 1)

    def run(self, work: Work) -> list[list[int]]:
        """See `_protocol.Peer.run`."""
        per_call = max(1, self.most // work.n)
        if work.n > self.most:
            raise RuntimeError(f"n={work.n}: at most {self.most} sequences in a context")
        rows: list[list[int]] = []
        for first in range(0, len(work.prompts), per_call):
            rows += self._some(work, work.prompts[first : first + per_call], first)
        return rows

    def _some(self, work: Work, prompts: list[list[int]], number: int) -> list[list[int]]:
        lib.llama_memory_clear(self.memory, True)
        shared = _common(prompts) if len(prompts) > 1 else 0
        self._decode([(token, at, 0, False) for at, token in enumerate(prompts[0][:shared])])
        for question in range(1, len(prompts)):
            if shared:
                lib.llama_memory_seq_cp(self.memory, 0, question * work.n, -1, -1)
        samplers = [
            self._sampler(work, number * work.n + row) for row in range(len(prompts) * work.n)
        ]
        tokens: list[int] = []
        for question, prompt in enumerate(prompts):
            first = question * work.n
            last = self._decode(
                [
                    (token, at, first, at == len(prompt) - 1)
                    for at, token in enumerate(prompt)
                    if at >= shared
                ]
            )
            for row in range(first, first + work.n):
                if row > first:
                    lib.llama_memory_seq_cp(self.memory, first, row, -1, -1)
                tokens.append(lib.llama_sampler_sample(samplers[row], self.context, last))
        rows = [[token] for token in tokens]
        lengths = [len(prompts[row // work.n]) for row in range(len(rows))]
        for step in range(1, work.new_tokens):
            self._decode(
                [
                    (row[-1], lengths[sequence] + step - 1, sequence, True)
                    for sequence, row in enumerate(rows)
                ]
            )
            for at, row in enumerate(rows):
                row.append(lib.llama_sampler_sample(samplers[at], self.context, at))
        for sampler in samplers:
            lib.llama_sampler_free(sampler)
        return rows

    def _decode(self, items: list[tuple[int, int, int, bool]]) -> int:
        """Evaluate (token, position, sequence, wants logits); index of the last in its batch."""
        at = -1
        for first in range(0, len(items), CHUNK):
            part = items[first : first + CHUNK]
            self.batch.n_tokens = len(part)
            for at, (token, position, sequence, logits) in enumerate(part):
                self.batch.token[at] = token
                self.batch.pos[at] = position
                self.batch.n_seq_id[at] = 1
                self.batch.seq_id[at][0] = sequence
                self.batch.logits[at] = ctypes.c_int8(logits).value
            if lib.llama_decode(self.context, self.batch) != 0:
                raise RuntimeError("llama_decode failed: the context is full")
        return at

    def _sampler(self, work: Work, row: int) -> Any:
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if work.temperature > 0:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(work.temperature))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(work.seed + row))
        else:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
        return chain


def _common(prompts: list[list[int]]) -> int:
    """Tokens that all prompts begin with."""
    shortest = min(map(len, prompts))
    for at in range(shortest - 1):
        if any(prompt[at] != prompts[0][at] for prompt in prompts):
            return at
    return shortest - 1


if __name__ == "__main__":
    serve(LlamaCpp, "llama-cpp-python")
