"""The ops: each has a plain-torch reference and faster backends behind one table.

``explain(op, *tensors)`` says which backend a call uses and why not the others.
"""

from fastsi.ops._registry import all_run_on, chosen_backend, explain
from fastsi.ops.advance_rows.api import advance_rows
from fastsi.ops.advance_rows.buffers import RowBuffers
from fastsi.ops.kv_write.api import kv_write
from fastsi.ops.linear.api import linear
from fastsi.ops.linear.packed import PackedWeight, pack_weight
from fastsi.ops.match_stop.api import answer_end, match_stop
from fastsi.ops.match_stop.state import StopRules, StopState
from fastsi.ops.merge_states.api import merge_states
from fastsi.ops.norm_rope_act.api import Activation, act_mul, rms_norm, rope_kv_write
from fastsi.ops.sample_tokens.api import require_drawn, sample_tokens
from fastsi.ops.sample_tokens.params import LogitAdjust, SampledTokens, SampleParams
from fastsi.ops.sample_tokens.stream import path_key, prompt_digest
from fastsi.ops.segment_attention.api import segment_attention
from fastsi.ops.segment_attention.plan import SegmentPlan
from fastsi.ops.token_bytes import TokenBytes
from fastsi.ops.token_logprob.api import token_logprob
from fastsi.ops.top_logprobs.api import TopLogprobs, top_logprobs
from fastsi.ops.vote_answers.api import vote_answers
from fastsi.ops.vote_answers.result import AnswerVotes, VoteOptions

__all__ = [
    "Activation",
    "AnswerVotes",
    "LogitAdjust",
    "PackedWeight",
    "RowBuffers",
    "SampleParams",
    "SampledTokens",
    "SegmentPlan",
    "StopRules",
    "StopState",
    "TokenBytes",
    "TopLogprobs",
    "VoteOptions",
    "act_mul",
    "advance_rows",
    "all_run_on",
    "answer_end",
    "chosen_backend",
    "explain",
    "kv_write",
    "linear",
    "match_stop",
    "merge_states",
    "pack_weight",
    "path_key",
    "prompt_digest",
    "require_drawn",
    "rms_norm",
    "rope_kv_write",
    "sample_tokens",
    "segment_attention",
    "token_logprob",
    "top_logprobs",
    "vote_answers",
]
