"""What the scheduler moves around: a group per distinct prompt, a path per continuation."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fastsi.engine.control import GroupController
from fastsi.engine.prefix_tree import Node
from fastsi.types import FinishReason, Logprob, SamplingParams

_ENDLESS = 2**62


@dataclass(eq=False)
class PathParams:
    """`SamplingParams` resolved against a model and a prompt length; shared by equal requests."""

    params: SamplingParams
    eos_ids: tuple[int, ...]
    """The model's end-of-sequence tokens."""
    limit: int
    """Most tokens to generate here: max_tokens, cut by the model's context."""

    @cached_property
    def stop_ids(self) -> npt.NDArray[np.int64]:
        """Token ids that end the path, int64, sorted."""
        eos = () if self.params.ignore_eos else self.eos_ids
        return np.unique(np.asarray([*eos, *self.params.stop_token_ids], dtype=np.int64))

    @cached_property
    def banned_ids(self) -> tuple[int, ...]:
        """Token ids that may not appear before ``min_tokens``."""
        return tuple(dict.fromkeys([*self.eos_ids, *self.params.stop_token_ids]))

    @cached_property
    def has_penalty(self) -> bool:
        """Whether logits depend on the tokens seen so far."""
        p = self.params
        return (p.repetition_penalty, p.presence_penalty, p.frequency_penalty) != (1.0, 0.0, 0.0)

    @cached_property
    def changes_logits(self) -> bool:
        """Whether any logit is changed before temperature."""
        return self.has_penalty or bool(self.params.logit_bias) or self.params.min_tokens > 0


@dataclass(slots=True, eq=False)
class PathState:
    """One continuation: sampled, or given (``forced``) and scored."""

    group: Group
    request: int
    """Index of the request in the call."""
    index: int
    """Index of the path in its request."""
    params: PathParams
    key: int
    """Key of the random stream."""
    forced: bool = False
    tokens: list[int] = field(default_factory=list)
    """Output tokens so far; kept in the row table while the path decodes."""
    logprobs: list[float] = field(default_factory=list)
    top_count: int | None = None
    """For given continuations: most likely tokens to report per position."""
    top: list[dict[int, Logprob]] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    filled: int = 0
    """Tokens of ``tokens`` whose KV is in ``pages``, while they are being prefilled."""
    slot: int = -1
    """Slot in the row table while the path decodes."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    text_end: int | None = None
    """Where a stop string cuts the text, characters."""
    text: str | None = None
    """Decoded when first asked for, after the path has ended."""

    @property
    def num_inputs(self) -> int:
        """Known tokens that must pass the model: the last one of a given continuation need not."""
        return len(self.tokens) - self.forced

    @property
    def key_order(self) -> tuple[int, int, int]:
        """Depth-first order among all paths of the call."""
        return (self.group.leaf.tin, self.request, self.index)


@dataclass(slots=True, eq=False)
class Group:
    """All paths of the call that continue the same prompt; of one request if it is controlled."""

    leaf: Node
    """Ends with the prompt's last token."""
    prompt: Sequence[int]
    pending: deque[PathState] = field(default_factory=deque)
    """Paths to start or resume, in order."""
    resuming: list[PathState] = field(default_factory=list)
    """Paths whose known tokens are being prefilled."""
    running: int = 0
    """Paths that decode."""
    admitted: bool = False
    """Whether the chain of ``leaf`` is locked and has pages."""
    controller: GroupController | None = None
    """Says how many paths are needed; None: all of them."""
    wanted: int = _ENDLESS
    """Pending paths of this index or more are held back."""

    @property
    def done(self) -> bool:
        """Whether no path is left to start or run."""
        return not self.pending and not self.resuming and self.running == 0

    @property
    def num_ready(self) -> int:
        """Pending paths that are not held back."""
        if not self.pending:
            return 0
        return max(0, min(len(self.pending), self.wanted - self.pending[0].index))

    @property
    def prefilled(self) -> bool:
        """Whether the keys and values of the whole prompt are in the cache."""
        return all(node.filled == len(node.tokens) for node in self.leaf.chain())
