"""Plain data passed between layers: frozen, keyword-only, free of torch.

Field names and defaults of `SamplingParams`, `RequestOutput` and `CompletionOutput` follow vLLM,
because that is what trainers already call.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastsi.errors import ConfigError

FinishReason = Literal["stop", "length", "abort"]

EXTRACTORS = ("auto", "boxed", "tag", "hash", "phrase", "choice", "yes_no", "last_number")
"""Ways in which an answer is found; ``fastsi.vote.extract`` has their rules."""
RUN_ON_MARKS = ("Question", "Q", "Problem")
"""A line or sentence that starts with one of these and a colon is not the model's own answer."""


def check_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse unknown names and suggest the nearest valid one.

    Raises:
        ConfigError: a name in ``names`` is not in ``known``.
    """
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown {what} {name!r}{hint}")


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise ConfigError(f"{name}={value!r}: must be {rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample the paths of one prompt.

    Order of operations on a row of logits: ``logit_bias`` and banned tokens, repetition, frequency
    and presence penalty, temperature, ``min_p``, ``top_k``, ``top_p`` (over what top-k kept), draw.
    """

    n: int = 1
    """Paths per prompt (the field says m)."""
    temperature: float = 1.0
    """0 is greedy; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose mass reaches this; ties stay in."""
    top_k: int = 0
    """Keep this many most likely tokens, ties at the edge included; 0 or -1 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one."""
    max_tokens: int | None = 16
    """Longest continuation in tokens; None: up to the model's context."""
    min_tokens: int = 0
    """End-of-sequence and stop tokens are banned before this many tokens."""
    stop: tuple[str, ...] = ()
    """Stop strings; a str or a list is accepted."""
    stop_at_answer: bool = False
    """End a path at the token that completes its first answer; the text is cut there, and
    ``stop_reason`` is "answer". The rules are those of ``fastsi.ops.answer_end``."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end a path, besides the model's end-of-sequence tokens."""
    ignore_eos: bool = False
    """Go on after end-of-sequence tokens (fixed-length measurements)."""
    seed: int | None = None
    """Seed of the paths' random streams; None: the engine's seed and a count of its calls."""
    logprobs: int | None = None
    """Log-probs per generated token: None none, k the k most likely and the sampled one."""
    prompt_logprobs: int | None = None
    """The same for prompt tokens; the first prompt token has none."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or output."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of tokens in the output."""
    frequency_penalty: float = 0.0
    """Subtracted per occurrence from the logits of tokens in the output."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of these token ids; -inf bans a token."""
    include_stop_str_in_output: bool = False
    """Keep the stop string in the text."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()))
        put(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        if self.top_k == -1:
            put(self, "top_k", 0)
        self._check_counts()
        self._check_numbers()
        _require(all(isinstance(s, str) and s for s in self.stop), "stop", self.stop, "non-empty")
        at_answer = self.stop_at_answer
        _require(isinstance(at_answer, bool), "stop_at_answer", at_answer, "True or False")
        for token in self.stop_token_ids:
            _require(_is_int(token) and token >= 0, "stop_token_ids", token, "token ids >= 0")
        for token, bias in (self.logit_bias or {}).items():
            _require(_is_int(token) and token >= 0, "logit_bias", token, "keyed by token ids >= 0")
            _require(not math.isnan(bias) and bias < math.inf, "logit_bias", bias, "below +inf")

    def _check_counts(self) -> None:
        _require(_is_int(self.n) and self.n >= 1, "n", self.n, "an integer >= 1")
        _require(_is_int(self.top_k) and self.top_k >= 0, "top_k", self.top_k, "an integer >= -1")
        longest = self.max_tokens
        _require(
            longest is None or (_is_int(longest) and longest >= 1), "max_tokens", longest, ">= 1"
        )
        least = self.min_tokens
        _require(_is_int(least) and least >= 0, "min_tokens", least, "an integer >= 0")
        if longest is not None and least > longest:
            raise ConfigError(f"min_tokens={least}: must be at most max_tokens={longest}")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _require(value is None or (_is_int(value) and value >= 0), name, value, "None or >= 0")
        seed = self.seed
        _require(
            seed is None or (_is_int(seed) and abs(seed) < 2**63), "seed", seed, "a 64-bit int"
        )

    def _check_numbers(self) -> None:
        def finite(name: str, low: float, high: float, rule: str, open_low: bool = False) -> None:
            value = getattr(self, name)
            good = isinstance(value, int | float) and not isinstance(value, bool)
            good = good and math.isfinite(value) and low <= value <= high
            _require(good and not (open_low and value == low), name, value, rule)

        finite("temperature", 0.0, 1e6, "a number >= 0")
        finite("top_p", 0.0, 1.0, "in (0, 1]", open_low=True)
        finite("min_p", 0.0, 1.0, "in [0, 1]")
        finite("repetition_penalty", 0.0, 1e6, "> 0", open_low=True)
        finite("presence_penalty", -1e6, 1e6, "a finite number")
        finite("frequency_penalty", -1e6, 1e6, "a finite number")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingParams:
        """Build from a mapping such as a TOML table; unknown keys are errors.

        Raises:
            ConfigError: unknown key or bad value.
        """
        check_known(values, (f.name for f in dataclasses.fields(cls)), "sampling field")
        return cls(**values)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(slots=True)
class Logprob:
    """Log-probability of one token at one position."""

    logprob: float
    """Natural log."""
    rank: int | None = None
    """1 for the most likely token."""
    decoded_token: str | None = None
    """The token's text."""


@dataclass(slots=True, kw_only=True)
class CompletionOutput:
    """One path."""

    index: int
    """Path index within its prompt, 0-based."""
    text: str
    token_ids: list[int]
    """Generated tokens; ends with the stop token if one ended the path."""
    cumulative_logprob: float
    """Sum of the generated tokens' log-probs under ``LLM(logprobs_mode=...)``."""
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """Stop token id or stop string; None for end-of-sequence and length."""
    token_logprobs: list[float] = dataclasses.field(default_factory=list)
    """Log-prob of each generated token, always filled."""

    def finished(self) -> bool:
        """Whether the path has ended."""
        return self.finish_reason is not None


@dataclass(slots=True, kw_only=True)
class RequestOutput:
    """All paths of one prompt, in path order."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    finished: bool = True
    num_cached_tokens: int = 0
    """Prompt tokens whose keys and values were already in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question without its answer: nothing that reads questions can see gold."""

    id: str
    question: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """Outcome of a majority vote over the answers of one question."""

    winner: str | None
    """Canonical key of the majority answer; None if every path abstained."""
    counts: Mapping[str, int]
    """Votes per canonical key, most first (by weight where paths have weights)."""
    n: int
    """Paths sampled."""
    votes: int
    """Paths with an answer; ``n - votes`` abstained."""
    share: float
    """``counts[winner] / n``, or ``weights[winner] / n``: abstentions count against; 0 without a
    winner."""
    margin: int
    """Votes of the winner minus the most votes of another answer; below 0 where weights overrule
    the count."""
    entropy: float
    """Entropy of the answers' shares in nats, over the paths that voted."""
    tie: bool
    """Whether the winner was settled by the tie rule (log-prob, then path index)."""
    stop_reason: str
    """Why sampling ended: ``full`` or the name of a stopping rule."""
    keys: tuple[str | None, ...]
    """Canonical key of each path, None where it abstained."""
    weights: Mapping[str, float] | None = None
    """Weight per canonical key, heaviest first; a path weighs 1 on average. None: each weighs 1."""
