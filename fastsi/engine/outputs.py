"""From finished paths to the objects users see."""

from __future__ import annotations

from fastsi.engine.core import RequestPaths
from fastsi.engine.detokenizer import Detokenizer
from fastsi.engine.requests import PathState
from fastsi.types import CompletionOutput, Logprob, RequestOutput, SamplingParams

PromptLogprobs = list[dict[int, Logprob] | None]


def request_output(
    number: int,
    *,
    text: str | None,
    prompt: list[int],
    result: RequestPaths,
    params: SamplingParams,
    prompt_logprobs: PromptLogprobs | None,
    detokenizer: Detokenizer,
) -> RequestOutput:
    """One request's paths as a `RequestOutput`."""
    return RequestOutput(
        request_id=str(number),
        prompt=text,
        prompt_token_ids=prompt,
        outputs=[_completion(path, params, detokenizer) for path in result.paths],
        prompt_logprobs=prompt_logprobs,
        num_cached_tokens=result.cached_tokens,
    )


def _completion(
    path: PathState, params: SamplingParams, detokenizer: Detokenizer
) -> CompletionOutput:
    if params.logprobs is not None:
        for found in path.top:
            for token, entry in found.items():
                entry.decoded_token = detokenizer.name(token)
    return CompletionOutput(
        index=path.index,
        text=detokenizer.path_text(path),
        token_ids=path.tokens,
        cumulative_logprob=sum(path.logprobs),
        logprobs=path.top if params.logprobs is not None else None,
        finish_reason=path.finish_reason,
        stop_reason=path.stop_reason,
        token_logprobs=path.logprobs,
    )
