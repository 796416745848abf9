"""Sections of `run_all.py` that run the whole engine: decoding, end to end, equality, bits."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _floor import PathsWorkload, decode_floor
from _harness import timed
from _measure import Context, show_time
from _shapes import LARGE, MIDDLE, SMALL, Shape, make_model, prompts_of, workload
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

import fastsi
from fastsi import SamplingParams
from fastsi.ops import TokenBytes
from fastsi.vote.tokens import vote_answers

_NEVER = 2**30
"""A token id outside every vocabulary: `generate` goes on to the full length."""
_NEAR_TIE = 1e-3
"""Difference of the two largest float32 logits below which rounding may choose either."""
_PAGE = 16
Sampled = tuple[list[list[int]], list[list[float]]]


def _lengths(context: Context) -> tuple[int, int]:
    """New tokens of the two runs whose difference is decoding alone."""
    return (3, 6) if context.dry else (16, 80)


def _kv_tokens(work: PathsWorkload) -> int:
    """KV cache in which all paths fit, with room for pages that are partly filled."""
    own = work.paths * work.questions * (work.new_tokens + 2 * _PAGE)
    return work.prefix_tokens + work.questions * (work.question_tokens + 2 * _PAGE) + own


def _llm(model: PreTrainedModel, work: PathsWorkload, **options: Any) -> fastsi.LLM:
    tokens = 2 * _kv_tokens(work) + 64 * _PAGE
    return fastsi.LLM(model, kv_cache_tokens=tokens, max_batch_rows=256, seed=1, **options)


def _sample(
    llm: fastsi.LLM, prompts: list[list[int]], work: PathsWorkload, new_tokens: int, **more: Any
) -> Sampled:
    """Token ids and log-probs of all paths, in order."""
    settings: dict[str, Any] = {"temperature": 0.7, "seed": 3} | more
    params = SamplingParams(n=work.paths, max_tokens=new_tokens, ignore_eos=True, **settings)
    requests: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(requests, params, use_tqdm=False)
    paths = [path for output in outputs for path in output.outputs]
    return [p.token_ids for p in paths], [p.token_logprobs for p in paths]


def _step_seconds(run: Callable[[int], object], lengths: tuple[int, int], repeats: int) -> float:
    """Seconds per decode step: what more tokens cost, so that prefill and set-up drop out."""
    short, long = lengths
    run(long)  # compiles kernels, records graphs, caches the prompts
    found = []
    for _ in range(repeats):
        times = [timed(partial(run, count)) for count in lengths]
        found.append((times[1] - times[0]) / (long - short))
    return sorted(found)[len(found) // 2]


def _step_floor(context: Context, model: PreTrainedModel, lengths: tuple[int, int]) -> float:
    """Shortest seconds of the same steps."""
    rates, (short, long) = context.rates_of(context.dtype), lengths
    seconds = [
        decode_floor(model.config, workload(context.dry, n), rates, dtype=context.dtype).seconds
        for n in lengths
    ]
    return (seconds[1] - seconds[0]) / (long - short)


def decode(context: Context, shape: Shape) -> None:
    """Decode steps of one model's shape, beside its floor, no sharing, and `generate`."""
    model = make_model(shape, context.device, context.dtype, context.dry)
    lengths = _lengths(context)
    work = workload(context.dry, lengths[1])
    prompts = prompts_of(work, model.config.vocab_size)
    name = f"decode {shape.name}, {work.questions} x {work.paths} rows"
    largest = shape is LARGE
    step = _decode_shared(context, model, shape, name, lengths)
    alone = _engine_step(model, work, lengths, 1, sharing="prefill")
    context.ratio(
        f"{name}: beside sharing off",
        alone / step,
        2.2 if largest else None,
        sharing_off_seconds=alone,
    )
    theirs = _generate_step(context, model, prompts, work)
    context.ratio(
        f"{name}: beside transformers generate",
        theirs / step,
        10.0 if largest else None,
        generate_seconds=theirs,
    )


def _decode_shared(
    context: Context, model: PreTrainedModel, shape: Shape, name: str, lengths: tuple[int, int]
) -> float:
    """Seconds of a step with all sharing; of the largest model also end to end."""
    longest = workload(context.dry, 6 if context.dry else 256)
    llm = _llm(model, longest)
    prompts = prompts_of(longest, model.config.vocab_size)
    step = _step_seconds(partial(_sample, llm, prompts, longest), lengths, 3)
    context.share(
        name,
        step,
        _step_floor(context, model, lengths),
        shape.goal,
        tokens_per_s=len(prompts) * longest.paths / step,
        stats=llm.stats(),
    )
    _what_limits(context, llm, name, longest, step)
    if shape is LARGE:
        _end_to_end(context, llm, longest, step)
    return step


def _what_limits(
    context: Context, llm: fastsi.LLM, name: str, work: PathsWorkload, step: float
) -> None:
    """Kernels of a step, how much of its time the device works, and which kernels take most."""
    kind = ProfilerActivity.CPU if context.dry else ProfilerActivity.CUDA
    prompts, steps = prompts_of(work, llm.model.config.vocab_size), 4 if context.dry else 8
    _sample(llm, prompts, work, steps)
    with profile(activities=[kind]) as found:
        _sample(llm, prompts, work, steps)
    own = "self_cpu_time_total" if context.dry else "self_device_time_total"  # microseconds
    events = sorted(found.key_averages(), key=lambda one: getattr(one, own), reverse=True)
    busy = sum(getattr(one, own) for one in events) * 1e-6 / steps
    shown = ", ".join(
        f"{one.key[:40]} {getattr(one, own) * 1e-6 / steps / max(busy, 1e-9):.0%}"
        for one in events[:4]
    )
    kernels = sum(one.count for one in events) / steps
    context.add(
        f"{name}: what limits",
        f"{kernels:.0f} kernels a step, the device works {busy / step:.0%} of it; {shown}",
        kernels=kernels,
        busy_seconds=busy,
    )


def _engine_step(
    model: PreTrainedModel,
    work: PathsWorkload,
    lengths: tuple[int, int],
    repeats: int,
    **options: Any,
) -> float:
    """Seconds of a step of an engine made for this and given up afterwards."""
    _forget()
    llm = _llm(model, work, **options)
    prompts = prompts_of(work, model.config.vocab_size)
    return _step_seconds(partial(_sample, llm, prompts, work), lengths, repeats)


def _generate_step(
    context: Context, model: PreTrainedModel, prompts: list[list[int]], work: PathsWorkload
) -> float:
    """Seconds of `generate` per token of every row; 64 rows per call, which memory allows."""
    questions = max(1, min(len(prompts), 64 // work.paths))
    ids = torch.tensor(prompts[:questions], device=context.device)

    @torch.inference_mode()
    def run(count: int) -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            num_return_sequences=work.paths,
            do_sample=True,
            temperature=0.7,
            top_k=0,
            eos_token_id=_NEVER,
        )

    lengths = (2, 4) if context.dry else (4, 16)
    return _step_seconds(run, lengths, 1) * len(prompts) / questions


def _end_to_end(context: Context, llm: fastsi.LLM, work: PathsWorkload, step: float) -> None:
    """Cold prompts to votes, beside the decode steps alone."""
    prompts = prompts_of(work, llm.model.config.vocab_size)
    table = _token_table(llm.model.config.vocab_size)

    def run() -> None:
        llm.reset_prefix_cache()
        paths, _ = _sample(llm, prompts, work, work.new_tokens)
        tokens = torch.tensor([token for path in paths for token in path], dtype=torch.int32)
        bounds = torch.arange(len(paths) + 1) * work.new_tokens
        groups = torch.arange(len(prompts) + 1) * work.paths
        vote_answers(*(part.to(context.device) for part in (tokens, bounds, groups)), table)

    run()  # compiles what prefill needs
    seconds = timed(run)
    steps = step * (work.new_tokens - 1)
    context.ratio(
        "end to end, prefill and voting included, beside decoding alone",
        seconds / steps,
        1.1,
        most=True,
        seconds=seconds,
        decode_seconds=steps,
    )


def _token_table(size: int) -> TokenBytes:
    """Tokens of random words, numbers and answers."""
    rng = random.Random(0)
    words = [" the", " so", " apples", ".", "\n", " The answer is ", " is", "\n#### "]

    def word() -> bytes:
        return (rng.choice(words) if rng.random() < 0.7 else f" {rng.randrange(999)}").encode()

    return TokenBytes.from_parts([word() for _ in range(size)], [0] * size)


def greedy(context: Context) -> None:
    """Greedy tokens against transformers in float32; log-probs in bfloat16 against torch's own."""
    model = make_model(SMALL, context.device, torch.float32, context.dry)
    work = workload(True, 6) if context.dry else workload(False, 24)
    prompts = prompts_of(work, model.config.vocab_size)
    few = prompts[:4]
    llm = _llm(model, work)
    single = PathsWorkload(
        prefix_tokens=work.prefix_tokens,
        question_tokens=work.question_tokens,
        questions=len(few),
        paths=1,
        new_tokens=work.new_tokens,
    )
    ours, _ = _sample(llm, few, single, work.new_tokens, temperature=0.0)
    ids = torch.tensor(few, device=context.device)
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=work.new_tokens,
            do_sample=False,
            eos_token_id=_NEVER,
        )
    theirs = output[:, ids.shape[1] :].tolist()
    different, ties = _differences(model, few, ours, theirs)
    context.add(
        "greedy tokens against transformers, float32",
        f"{len(few) - different - ties} of {len(few)} equal, {ties} split at a tie",
        "equal",
        different == 0,
        different=different,
        ties=ties,
    )
    del llm
    _forget()
    _logprob_error(context, model, few)


@torch.inference_mode()
def _differences(
    model: PreTrainedModel, prompts: list[list[int]], ours: list[list[int]], theirs: list[list[int]]
) -> tuple[int, int]:
    """Paths that differ where the model is decided, and where it is not."""
    wrong = ties = 0
    for prompt, left, right in zip(prompts, ours, theirs, strict=True):
        if left == right:
            continue
        at = next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
        ids = torch.tensor([prompt + right[:at]], device=model.device)
        logits = model(ids).logits[0, -1].float()
        close = abs(float(logits[left[at]] - logits[right[at]])) <= _NEAR_TIE
        ties, wrong = ties + close, wrong + (not close)
    return wrong, ties


@torch.inference_mode()
def _logprob_error(context: Context, model: PreTrainedModel, prompts: list[list[int]]) -> None:
    """Largest error of bfloat16 log-probs, the engine's beside torch's own."""
    cut = len(prompts[0]) // 2
    ids = torch.tensor(prompts, device=context.device)

    def own(of: PreTrainedModel) -> torch.Tensor:
        scores = torch.log_softmax(of(ids).logits.double(), dim=-1)[:, cut - 1 : -1]
        return scores.gather(2, ids[:, cut:, None])[:, :, 0]

    truth = own(model)
    narrow = model.to(torch.bfloat16)
    llm = _llm(narrow, workload(context.dry, 4))
    requests: Any = [{"prompt_token_ids": prompt[:cut]} for prompt in prompts]
    found = llm.score(requests, [[prompt[cut:]] for prompt in prompts])
    ours = torch.tensor([one[0] for one in found], device=context.device, dtype=torch.float64)
    errors = [float((scores - truth).abs().max()) for scores in (ours, own(narrow))]
    context.ratio(
        "error of bfloat16 log-probs beside torch's own",
        errors[0] / max(errors[1], 1e-12),
        2.0,
        most=True,
        engine_error=errors[0],
        torch_error=errors[1],
    )


def deterministic(context: Context) -> None:
    """Bits of tokens and log-probs over batch mixes, and what they cost."""
    model = make_model(MIDDLE, context.device, _fixed_dtype(context), context.dry)
    lengths = _lengths(context)
    work = workload(context.dry, lengths[1])
    prompts = prompts_of(work, model.config.vocab_size)
    fixed = _llm(model, work, deterministic=True)
    count = 4 if context.dry else 24
    whole = _sample(fixed, prompts, work, count)
    same = True
    for some in (prompts[:1], prompts[1:], prompts[::-1]):
        fixed.reset_prefix_cache()
        part = _sample(fixed, some, work, count)
        for at, prompt in enumerate(some):
            there = prompts.index(prompt)
            mine, all_ = (slice(i * work.paths, (i + 1) * work.paths) for i in (at, there))
            same &= all(p[mine] == w[all_] for p, w in zip(part, whole, strict=True))
    context.add(
        "deterministic=True over four batch mixes",
        "bitwise equal" if same else "DIFFERENT",
        "bitwise equal",
        same,
        equal=same,
    )
    slow = _step_seconds(partial(_sample, fixed, prompts, work), lengths, 2)
    fast = _engine_step(model, work, lengths, 2)
    context.ratio(
        f"its cost, {MIDDLE.name} ({show_time(slow)} a step)",
        slow / fast,
        1.2,
        most=True,
        seconds=slow,
        free_seconds=fast,
    )


def _fixed_dtype(context: Context) -> torch.dtype:
    """On a CPU bits are promised in float32 alone."""
    return torch.float32 if context.device.type == "cpu" else context.dtype


def _forget() -> None:
    """Give memory back before the next model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def decode_small(context: Context) -> None:
    """SmolLM2-135M, bound by launches."""
    decode(context, SMALL)


def decode_middle(context: Context) -> None:
    """Qwen2.5-1.5B."""
    decode(context, MIDDLE)


def decode_large(context: Context) -> None:
    """Llama-3.1-8B, and end to end with the same model."""
    decode(context, LARGE)
