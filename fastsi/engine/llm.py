"""`LLM`: prompts in, texts out; the class that users and trainers call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastsi.engine import architecture, loading, outputs, weights
from fastsi.engine.config import EngineConfig, Graphs, KVDtype, LogprobsMode, Sharing
from fastsi.engine.control import GroupController
from fastsi.engine.core import Engine, EngineRequest
from fastsi.engine.detokenizer import Detokenizer
from fastsi.engine.kv_pool import bytes_per_token
from fastsi.engine.model_runner import ModelRunner, Quantization
from fastsi.engine.requests import PathParams
from fastsi.errors import ConfigError, PromptTooLong
from fastsi.types import RequestOutput, SamplingParams, check_known

Prompt = str | Sequence[int] | Mapping[str, Any]
Message = Mapping[str, str]
_T = TypeVar("_T")
_MEMORY_SHARE = {"cpu": 0.3, "cuda": 0.85}
"""Share of the free memory that kv_cache_tokens="auto" takes; a CPU touches pages only as used."""
_MOST_AUTO_TOKENS = 2**20
_SMALL_MODEL = 20_000_000
"""Parameters below which a step costs more in calls than in arithmetic: wider batches pay."""


class LLM:
    """Samples many paths per prompt from a transformers model, sharing all work on prefixes.

    The model given is the model used: `LLM.model` is the same object, its parameters are read at
    every step, so a trainer's optimizer step is seen without copying weights.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        quantization: Quantization | None = None,
        kv_dtype: KVDtype = "auto",
        kv_cache_tokens: int | Literal["auto"] = "auto",
        max_batch_rows: int | Literal["auto"] = "auto",
        max_step_tokens: int | Literal["auto"] = "auto",
        max_model_len: int | Literal["auto"] = "auto",
        deterministic: bool = False,
        release_weights: bool = False,
        sharing: Sharing = "tree",
        logprobs_mode: LogprobsMode = "raw_logprobs",
        page_size: int = 16,
        pipeline: bool | Literal["auto"] = "auto",
        graphs: Graphs = "auto",
        steps_per_call: int = 16,
        seed: int = 0,
    ) -> None:
        """Load or take the model, check that it can run, and reserve the KV cache.

        Args:
            model: folder, ``.gguf`` file, hub id, or a live model (dtype and device stay its own).
            tokenizer: None: loaded from ``model``; a live model without one takes and gives ids.
            dtype: of weights and KV: "auto", "float32", "float64", "bfloat16" or "float16".
            device: "auto" (the first GPU, else the CPU) or a torch device.
            quantization: linear layers run on smaller copies of their weights, and round rows as
                they come (`fastsi.ops.linear`): "bf16" to bfloat16, which costs next to nothing
                and pays where the CPU multiplies it; "int8" to 8 bits, faster still. None: in
                ``dtype``. CPU only, float32 or bfloat16 models.
            kv_dtype: of the KV cache: "auto" (as the weights), "float32", or for float32 models
                "bfloat16" (half the memory, arithmetic stays float32) or, on a CPU, "int8" (a
                quarter, `fastsi.ops.kv_quant`; attention over shared spans may use integers). On
                a CPU bfloat16 models, whose arithmetic between products is float32, have all three.
            kv_cache_tokens: capacity of the KV cache, tokens; "auto": a share of free memory.
            max_batch_rows: most paths decoding at the same time.
            max_step_tokens: most query tokens per step, prefill chunks included.
            max_model_len: longest prompt plus continuation, tokens; "auto": the model's context.
            deterministic: tokens and log-probs have the same bits whatever else is in the batch or
                the cache; costs a little sharing between unequal prompts. On a CPU, float32 and
                bfloat16 models; on a GPU, products by a kernel of its own in place of cuBLAS.
            release_weights: see `release_weights`; for models that are only sampled from.
            sharing: see `EngineConfig.sharing`.
            logprobs_mode: see `EngineConfig.logprobs_mode`.
            page_size: tokens per KV page.
            pipeline: see `EngineConfig.pipeline`.
            graphs: see `EngineConfig.graphs`.
            steps_per_call: see `EngineConfig.steps_per_call`.
            seed: of requests that bring no seed; two calls draw different paths.

        Raises:
            ModelError: the model cannot be loaded or uses a feature that cannot run.
            ConfigError: a setting is out of range.
        """
        if quantization is not None:
            check_known([quantization], get_args(Quantization), "quantization")
        if isinstance(model, PreTrainedModel) or hasattr(model, "get_base_model"):
            self.model: PreTrainedModel = model
            self.tokenizer = tokenizer
        else:
            self.model, loaded = loading.load_model(model, dtype, device)
            self.tokenizer = tokenizer or loaded
        self._runner = ModelRunner(
            self.model,
            quantization=quantization,
            kv_dtype=kv_dtype,
            deterministic=deterministic,
            pack_later=release_weights,
        )
        context = architecture.context_length(self.model.config)
        if max_model_len != "auto" and max_model_len > context:
            raise ConfigError(f"max_model_len={max_model_len}: the model's context is {context}")
        small = self._num_parameters() < _SMALL_MODEL
        rows = _resolve(max_batch_rows, 1024 if small else 256)
        longest = _resolve(max_model_len, context)
        tokens = _resolve(kv_cache_tokens, _auto_tokens(self._runner, page_size))
        self.config = EngineConfig(
            kv_cache_tokens=tokens,
            max_batch_rows=rows,
            busy_rows=128 if small else 32,
            max_step_tokens=max(rows + 1, _resolve(max_step_tokens, 2048)),
            max_model_len=longest,
            page_size=page_size,
            sharing=sharing,
            logprobs_mode=logprobs_mode,
            deterministic=deterministic,
            pipeline=pipeline,
            graphs=graphs,
            steps_per_call=steps_per_call,
            seed=seed,
        )
        self._vocab_size = int(architecture.text_config(self.model.config).vocab_size)
        self._detokenizer = Detokenizer(self.tokenizer)
        self._engine = Engine(self._runner, self.config, self._detokenizer)
        self._eos_ids = architecture.eos_ids(self.model, self.tokenizer)
        if release_weights:  # after all that could refuse a caller's live model
            self._runner.release_weights()
        self._weights_seen = weights.fingerprint(self._runner.model)
        self._runner.seen(self._weights_seen.parameters)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        controllers: Sequence[GroupController | None] | None = None,
    ) -> list[RequestOutput]:
        """Sample ``n`` paths for each prompt.

        Args:
            prompts: texts, lists of token ids, or ``{"prompt_token_ids": [...]}``; one or many.
                Prompts with the same tokens share their prefill, and each copy gets the next
                paths of that prompt: 32 copies with n=1 are the paths of one copy with n=32.
            sampling_params: one for all, or one per prompt; None: the defaults.
            use_tqdm: show a progress bar of paths on a terminal.
            controllers: one per prompt, or None; ends a prompt's sampling before ``n`` paths.

        Returns:
            One `RequestOutput` per prompt, in order, its ``outputs`` in path order; of a prompt
            whose controller decided, the paths that count.

        Raises:
            ConfigError: a prompt is empty, or names tokens outside the vocabulary.
            PromptTooLong: a prompt leaves no room for a token in the model's context.
            CacheFull: a path cannot fit the KV cache.
        """
        batch = _as_list(prompts)
        if isinstance(sampling_params, SamplingParams):
            sampling_params = [sampling_params] * len(batch)
        settings = _per_prompt(sampling_params, SamplingParams(), len(batch), "sampling_params")
        texts = [p if isinstance(p, str) else None for p in batch]
        ids = [self._encode(prompt, where) for where, prompt in enumerate(batch)]
        resolved: dict[tuple[int, int], PathParams] = {}
        control = _per_prompt(controllers, None, len(batch), "controllers")
        requests = [
            EngineRequest(
                prompt=tokens,
                params=self._resolve(params, len(tokens), resolved),
                controller=controller,
            )
            for tokens, params, controller in zip(ids, settings, control, strict=True)
        ]
        self._notice_new_weights()
        total = sum(params.n for params in settings)
        with tqdm(total=total, unit="path", disable=None if use_tqdm else True) as bar:
            results = self._engine.run(requests, lambda path: bar.update())
        prompt_logprobs = self._prompt_logprobs(ids, settings)
        with self._engine.stats.phase("text"):
            return [
                outputs.request_output(
                    number,
                    text=texts[number],
                    prompt=ids[number],
                    result=result,
                    params=settings[number],
                    prompt_logprobs=prompt_logprobs[number],
                    detokenizer=self._detokenizer,
                )
                for number, result in enumerate(results)
            ]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
    ) -> list[RequestOutput]:
        """`generate` on conversations rendered by the tokenizer's chat template.

        Args:
            messages: one conversation, or several; a message is ``{"role", "content"}``.
            sampling_params: as in `generate`.
            use_tqdm: as in `generate`.
            add_generation_prompt: end with the start of an assistant turn.

        Raises:
            ConfigError: there is no tokenizer, or it has no chat template.
        """
        if self.tokenizer is None or not self.tokenizer.chat_template:
            raise ConfigError("chat: the model's tokenizer has no chat template; use generate")
        many = [messages] if messages and isinstance(messages[0], Mapping) else messages
        prompts = [
            self.tokenizer.apply_chat_template(
                list(conversation),
                tokenize=True,
                return_dict=False,
                add_generation_prompt=add_generation_prompt,
            )
            for conversation in many
        ]
        return self.generate(prompts, sampling_params, use_tqdm)

    def score(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[Sequence[str | Sequence[int]]],
    ) -> list[list[list[float]]]:
        """Raw log-probs of given continuations; prompts are shared as in `generate`.

        Args:
            prompts: P prompts.
            continuations: for each prompt its continuations, as text (tokenised without special
                tokens) or token ids, at least one token each.

        Returns:
            For each prompt and continuation, the natural-log probability of every token.

        Raises:
            ConfigError: counts differ or a continuation is empty.
            PromptTooLong: prompt and continuation exceed the model's context.
        """
        if len(prompts) != len(continuations):
            raise ConfigError(f"{len(prompts)} prompts with {len(continuations)} continuations")
        requests = []
        for number, (prompt, given) in enumerate(zip(prompts, continuations, strict=True)):
            ids = self._encode(prompt, number)
            tokens = [self._encode_continuation(one, number) for one in given]
            if not tokens:
                raise ConfigError(f"prompt {number}: no continuation to score")
            longest = len(ids) + max(map(len, tokens))
            if longest > self.config.max_model_len:
                raise PromptTooLong(
                    f"prompt {number} with its continuation has {longest} tokens, the context "
                    f"holds {self.config.max_model_len}"
                )
            params = PathParams(SamplingParams(), self._eos_ids, 1)
            requests.append(EngineRequest(prompt=ids, params=params, continuations=tokens))
        self._notice_new_weights()
        results = self._engine.run(requests)
        return [[path.logprobs for path in result.paths] for result in results]

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """Copy weights into the model in place; see `fastsi.engine.weights.load_weights`."""
        with self._runner.reopening() as before_write:
            done = weights.load_weights(self._runner.model, named_tensors, before_write)
        self._notice_new_weights()
        return done

    def release_weights(self) -> None:
        """Give up the memory of weights that are packed, so that they are not held twice.

        On a CPU linear layers run on packed copies of their weights. This empties the parameters
        that nothing else of the pass reads (tied embeddings, norms, biases and adapters stay):
        they keep shape and dtype, and reading their values raises `ModelError`. `load_weights`
        works as before, except with ``quantization``. Until `restore_weights`, changes to
        the model's modules, hooks or instruction set are refused.

        Raises:
            ConfigError: the model is on a GPU, where nothing is held twice.
        """
        self._runner.release_weights()
        self._notice_new_weights()

    def restore_weights(self) -> None:
        """Undo `release_weights`, bit for bit; the model can be trained, saved and changed again.

        Raises:
            ConfigError: with ``quantization``, whose packed copies are rounded.
        """
        self._runner.restore_weights()
        self._notice_new_weights()

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prompts. Called by itself when weights or adapters have changed."""
        self._engine.reset_prefix_cache()
        return True

    def stats(self) -> dict[str, Any]:
        """Counters since the start or `reset_stats` (`EngineStats`), and how the model is run."""
        return self._engine.stats.as_dict() | {"model": self._runner.describe()}

    def reset_stats(self) -> None:
        """Set the counters of `stats` to zero."""
        self._engine.stats.reset()

    def get_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, None where only token ids go in and out."""
        return self.tokenizer

    def _num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def _notice_new_weights(self) -> None:
        now = weights.fingerprint(self._runner.model)
        if now != self._weights_seen:
            self._weights_seen = now
            self._runner.seen(now.parameters)
            self._engine.reset_prefix_cache()

    def _encode(self, prompt: Prompt, number: int) -> list[int]:
        """Token ids of one prompt, checked."""
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise ConfigError(f"prompt {number} is text, and the model came without tokenizer")
            ids = list(self.tokenizer(prompt)["input_ids"])
        elif isinstance(prompt, Mapping):
            if set(prompt) - {"prompt", "prompt_token_ids"} or not prompt:
                raise ConfigError(f"prompt {number}: keys are prompt_token_ids or prompt")
            inner = prompt.get("prompt_token_ids")
            return self._encode(prompt["prompt"] if inner is None else inner, number)
        else:
            ids = [int(token) for token in prompt]
        if not ids:
            raise ConfigError(f"prompt {number} is empty")
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise ConfigError(f"prompt {number}: token ids must be in [0, {self._vocab_size})")
        if len(ids) >= self.config.max_model_len:
            raise PromptTooLong(
                f"prompt {number} has {len(ids)} tokens; the context of "
                f"{self.config.max_model_len} leaves no room for an answer"
            )
        return ids

    def _encode_continuation(self, given: str | Sequence[int], number: int) -> list[int]:
        if isinstance(given, str):
            if self.tokenizer is None:
                raise ConfigError(f"continuation of prompt {number} is text without a tokenizer")
            given = self.tokenizer(given, add_special_tokens=False)["input_ids"]
        return self._encode([int(token) for token in given], number)

    def _resolve(
        self, params: SamplingParams, prompt_len: int, cache: dict[tuple[int, int], PathParams]
    ) -> PathParams:
        """Bind settings to the model; equal settings give the same object."""
        room = self.config.max_model_len - prompt_len
        key = (id(params), room)
        if key not in cache:
            limit = room if params.max_tokens is None else min(params.max_tokens, room)
            named = [*params.stop_token_ids, *(params.logit_bias or {})]
            for token in named:
                if token >= self._vocab_size:
                    raise ConfigError(
                        f"token id {token} in stop_token_ids or logit_bias: the vocabulary has "
                        f"{self._vocab_size}"
                    )
            if (params.stop or params.stop_at_answer) and self.tokenizer is None:
                raise ConfigError("stop and stop_at_answer need a tokenizer")
            cache[key] = PathParams(params, self._eos_ids, limit)
        return cache[key]

    def _prompt_logprobs(
        self, ids: list[list[int]], settings: list[SamplingParams]
    ) -> list[outputs.PromptLogprobs | None]:
        """Log-probs of prompt tokens where asked for: the prompt scored as a continuation."""
        found: list[outputs.PromptLogprobs | None] = [None] * len(ids)
        asked = [i for i, params in enumerate(settings) if params.prompt_logprobs is not None]
        params = PathParams(SamplingParams(), self._eos_ids, 1)
        requests = [
            EngineRequest(
                prompt=ids[i][:1],
                params=params,
                continuations=[ids[i][1:]],
                top=settings[i].prompt_logprobs,
            )
            for i in asked
            if len(ids[i]) > 1
        ]
        scored = iter(self._engine.run(requests)) if requests else iter(())
        for i in asked:
            found[i] = [None, *(next(scored).paths[0].top if len(ids[i]) > 1 else [])]
        return found


def _resolve(value: int | Literal["auto"], automatic: int) -> int:
    return automatic if value == "auto" else value


def _auto_tokens(runner: ModelRunner, page_size: int) -> int:
    per_token = bytes_per_token(runner.layers, runner.kv_dtype)
    if runner.device.type == "cuda":
        with runner.session():  # copies of weights laid side by side are made first
            pass
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(runner.device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    share = _MEMORY_SHARE.get(runner.device.type, _MEMORY_SHARE["cpu"])
    return max(page_size, min(_MOST_AUTO_TOKENS, int(share * free / per_token)))


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many: a list of integers is one prompt."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    many: list[Any] = list(prompts)
    return [many] if many and isinstance(many[0], int) else many


def _per_prompt(given: Sequence[_T] | None, default: _T, count: int, name: str) -> list[_T]:
    """One value per prompt; the default where none are given."""
    if given is None:
        return [default] * count
    if len(given) != count:
        raise ConfigError(f"{len(given)} {name} for {count} prompts")
    return list(given)
