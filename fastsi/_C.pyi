from collections.abc import Sequence
from types import NotImplementedType

class TensorView:
    def __init__(
        self, data: int, shape: tuple[int, ...], stride: tuple[int, ...], dtype: int
    ) -> None: ...

class SegmentPlan:
    def __init__(
        self,
        page_indptr: TensorView,
        page_ids: TensorView,
        page_offset: TensorView,
        kv_len: TensorView,
        kv_start: TensorView,
        row_begin: TensorView,
        row_end: TensorView,
        causal: TensorView,
        per_path: TensorView,
        row_pos: TensorView,
        page_size: int,
    ) -> None: ...

class LinearWeights:
    def __init__(self, data: TensorView, n: int, k: int, pair: bool, parts: int) -> None: ...

def linear_parts(weight: TensorView, threads: int) -> int: ...
def linear_packed_shape(n: int, k: int, pair: bool, bf16: bool) -> list[int]: ...
def linear_pack(weight: TensorView, packed: LinearWeights, first: int, threads: int) -> None: ...
def linear_unpack(packed: LinearWeights, first: int, weight: TensorView, threads: int) -> None: ...
def linear(
    x: TensorView,
    weights: LinearWeights,
    bias: TensorView | None,
    residual: TensorView | None,
    row_index: TensorView | None,
    activation: int,
    out: TensorView,
    threads: int,
) -> None: ...

class LinearInt8Weights:
    def __init__(
        self,
        data: TensorView,
        scale: TensorView,
        sum: TensorView,
        n: int,
        k: int,
        pair: bool,
        step_scales: bool,
    ) -> None: ...

def linear_int8_step_scales() -> bool: ...
def linear_int8_panels(n: int, pair: bool) -> int: ...
def linear_int8_pack(
    weight: TensorView, packed: LinearInt8Weights, first: int, threads: int
) -> None: ...
def linear_int8(
    x: TensorView,
    weights: LinearInt8Weights,
    bias: TensorView | None,
    residual: TensorView | None,
    row_index: TensorView | None,
    activation: int,
    out: TensorView,
    threads: int,
) -> None: ...
def set_isa(name: str) -> None: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def thread_pool() -> str: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def uniform(key: int, position: int) -> float: ...
def segment_attention(
    q: TensorView,
    k_cache: TensorView,
    v_cache: TensorView,
    k_scale: TensorView | None,
    v_scale: TensorView | None,
    plan: SegmentPlan,
    scale: float,
    softcap: float,
    window: int,
    out: TensorView,
    lse: TensorView,
    threads: int,
) -> None: ...
def merge_states(
    outs: TensorView, lses: TensorView, out: TensorView, lse: TensorView, threads: int
) -> None: ...
def kv_write(
    k: TensorView,
    v: TensorView,
    k_cache: TensorView,
    v_cache: TensorView,
    k_scale: TensorView | None,
    v_scale: TensorView | None,
    slots: TensorView,
    threads: int,
) -> None: ...
def rms_norm(
    x: TensorView,
    weight: TensorView,
    eps: float,
    residual: TensorView | None,
    out: TensorView,
    threads: int,
) -> None: ...
def rope_kv_write(
    q: TensorView,
    k: TensorView,
    v: TensorView,
    cos: TensorView,
    sin: TensorView,
    q_norm: TensorView | None,
    k_norm: TensorView | None,
    eps: float,
    k_cache: TensorView,
    v_cache: TensorView,
    k_scale: TensorView | None,
    v_scale: TensorView | None,
    slots: TensorView,
    threads: int,
) -> None: ...
def act_mul(
    gate: TensorView, up: TensorView, activation: int, out: TensorView, threads: int
) -> None: ...
def match_stop(
    tokens: TensorView,
    slots: TensorView,
    table: Sequence[TensorView],
    rules: Sequence[TensorView],
    state: Sequence[TensorView],
    hit: TensorView,
) -> None: ...
def first_answer(text: bytes, begin: int, thinking: bool) -> int: ...
def sample_tokens(
    logits: TensorView,
    params: Sequence[TensorView],
    row_index: TensorView | None,
    adjust: Sequence[TensorView] | None,
    result: Sequence[TensorView],
    logprob_raw: TensorView | None,
    threads: int,
) -> None: ...
def top_logprobs(
    logits: TensorView,
    tokens: TensorView,
    row_index: TensorView | None,
    token_ids: TensorView,
    logprobs: TensorView,
    rank: TensorView,
    threads: int,
) -> None: ...
def key_of_answer(text: str) -> str | NotImplementedType | None: ...
def device_answer_key(text: str) -> str | NotImplementedType | None: ...
def device_key_name(kind: int, numerator: int, denominator: int) -> str: ...

class ExtractOptions:
    def __init__(self, extractor: int, last_number: bool, run_on: Sequence[str]) -> None: ...

def answer_key(text: str, options: ExtractOptions) -> str | NotImplementedType | None: ...
def answer_keys(
    texts: Sequence[str], options: ExtractOptions, threads: int
) -> list[str | NotImplementedType | None]: ...
def read_path_answers(
    tokens: TensorView,
    path_indptr: TensorView,
    table: Sequence[TensorView],
    strip_first_blank: bool,
    options: ExtractOptions,
    key_id: TensorView,
    threads: int,
) -> tuple[list[str], list[tuple[int, str]]]: ...
def tally_votes(
    key_id: TensorView,
    num_keys: int,
    group_indptr: TensorView,
    logprobs: TensorView | None,
    weights: TensorView | None,
    min_lead: int,
    min_share: float,
    result: Sequence[TensorView],
) -> None: ...

class DecoderNorm:
    def __init__(self, weight: TensorView, eps: float) -> None: ...

class DecoderHeadNorms:
    def __init__(self, q: TensorView, k: TensorView, eps: float) -> None: ...

class DecoderLinear:
    def __init__(
        self, weights: LinearWeights | LinearInt8Weights, bias: TensorView | None
    ) -> None: ...

class DecoderLayer:
    def __init__(
        self,
        before: DecoderNorm,
        qkv: DecoderLinear,
        head_norms: DecoderHeadNorms | None,
        scale: float,
        softcap: float,
        window: int,
        output: DecoderLinear,
        between: DecoderNorm,
        gate_up: DecoderLinear,
        activation: int,
        down: DecoderLinear,
    ) -> None: ...

class DecoderStep:
    def __init__(
        self,
        ids: TensorView | None,
        positions: TensorView,
        keep: TensorView,
        cos: TensorView,
        sin: TensorView,
        k_caches: Sequence[TensorView],
        v_caches: Sequence[TensorView],
        k_scales: Sequence[TensorView],
        v_scales: Sequence[TensorView],
        slots: TensorView,
    ) -> None: ...

class StopSearch:
    def __init__(
        self,
        slots: TensorView,
        table: Sequence[TensorView],
        rules: Sequence[TensorView],
        state: Sequence[TensorView],
        hit: TensorView,
    ) -> None: ...

class Decoder:
    def __init__(
        self,
        embedding: TensorView | None,
        layers: Sequence[DecoderLayer],
        norm: DecoderNorm,
        head: DecoderLinear,
    ) -> None: ...
    def forward(
        self,
        step: DecoderStep,
        plan: SegmentPlan,
        scratch: Sequence[TensorView],
        logits: TensorView,
        threads: int,
    ) -> None: ...
    def decode(
        self,
        step: DecoderStep,
        plan: SegmentPlan,
        scratch: Sequence[TensorView],
        logits: TensorView,
        params: Sequence[TensorView],
        result: Sequence[TensorView],
        logprob_raw: TensorView | None,
        ends: Sequence[TensorView],
        search: StopSearch | None,
        top: Sequence[TensorView] | None,
        seconds: float,
        threads: int,
    ) -> tuple[int, float]: ...
