"""A scripted stand-in for the engine, for tests that are about rounds and not about sampling.

Its model is a real module that gets trained; its paths are made up: a sum read off the question,
wrong or missing in a share of the paths. As with the engine, a path depends on (seed, prompt, path
index) alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from fastsi.engine import GroupController
from fastsi.train.checkpoint import fingerprint
from fastsi.types import CompletionOutput, Question, RequestOutput, SamplingParams


class ScriptedSampler:
    """Answers "add A and B" questions: right with probability ``skill``, else near or silent."""

    def __init__(self, model: Any, tokenizer: Any, skill: float = 0.6) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.skill = skill
        self.calls: list[tuple[str, int]] = []
        """(fingerprint of the weights, number of prompts) of each call of `generate`."""
        self.resets = 0

    def reset_prefix_cache(self) -> None:
        self.resets += 1

    def release_weights(self) -> None:
        """Nothing is packed."""

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: SamplingParams,
        use_tqdm: bool = True,
        *,
        controllers: Sequence[GroupController | None] | None = None,
    ) -> list[RequestOutput]:
        assert not self.model.training, "sampling from a module in training mode"
        self.calls.append((fingerprint(self.model), len(prompts)))
        requests = [
            self._request(str(i), list(prompt["prompt_token_ids"]), sampling_params)
            for i, prompt in enumerate(prompts)
        ]
        for request, controller in zip(requests, controllers or (), strict=False):
            for path in list(request.outputs):
                count = None if controller is None else controller.finished(path.index, path.text)
                if count is not None:
                    del request.outputs[count:]
                    break
        return requests

    def _request(self, name: str, prompt: list[int], params: SamplingParams) -> RequestOutput:
        text = self.tokenizer.decode(prompt)
        first, second = (int(number) for number in re.findall(r"\d+", text)[-2:])
        outputs = [
            self._path(i, first, second, _draw(params.seed, prompt, i)) for i in range(params.n)
        ]
        return RequestOutput(request_id=name, prompt=None, prompt_token_ids=prompt, outputs=outputs)

    def _path(self, index: int, first: int, second: int, draw: int) -> CompletionOutput:
        error = 0 if draw % 1000 < 1000 * self.skill else 1 + draw % 7
        order = (first, second) if draw % 2 else (second, first)
        total = first + second + error
        text = f" {order[0]} + {order[1]} = {total}. The answer is {total}."
        if error == 7:
            text = " I wonder."
        return CompletionOutput(
            index=index,
            text=text,
            token_ids=self.tokenizer(text, add_special_tokens=False)["input_ids"],
            cumulative_logprob=-1.0 - (draw % 97) / 10,
            finish_reason="length" if draw % 11 == 0 else "stop",
        )


def questions(count: int) -> list[Question]:
    """Questions that `ScriptedSampler` answers, with as many different sums."""
    return [Question(id=f"q{i}", question=f"Add {i + 3} and {7 * i + 5}.") for i in range(count)]


def _draw(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")
