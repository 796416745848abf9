"""What each sampling field does, on a text model with a byte tokenizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from fastsi.engine import LLM
from fastsi.errors import ConfigError, ModelError, NumericalError, PromptTooLong
from fastsi.types import SamplingParams
from tests.support.compare import sequence_logprobs
from tests.support.tiny_models import BYTE_VOCAB, EOS, byte_tokenizer, make_model, save_model

MODEL = make_model("llama", 21, dtype=torch.float64, vocab_size=BYTE_VOCAB)
PROMPT = "Q: how many?\nA:"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(MODEL, tokenizer=byte_tokenizer(), kv_cache_tokens=4096)


def one(llm: LLM, prompt: Any = PROMPT, **fields: Any) -> Any:
    params = SamplingParams(**({"max_tokens": 48, "seed": 3, "ignore_eos": True} | fields))
    return llm.generate([prompt], params, use_tqdm=False)[0].outputs[0]


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_cuts_the_text_where_it_first_occurs(llm: LLM, include: bool) -> None:
    free = one(llm)
    assert free.finish_reason == "length"
    for begin, length in ((5, 1), (9, 2), (20, 4)):
        stop = free.text[begin : begin + length]
        if "\ufffd" in stop:
            continue
        path = one(llm, stop=["never", stop], include_stop_str_in_output=include)
        assert path.text == free.text[: free.text.find(stop) + include * length]
        assert path.token_ids == free.token_ids[: len(path.token_ids)]
        assert (path.finish_reason, path.stop_reason) == ("stop", stop)


def test_stop_tokens_end_the_path_and_stay_out_of_the_text(llm: LLM) -> None:
    free = one(llm)
    token = free.token_ids[7]
    end = free.token_ids.index(token)
    path = one(llm, stop_token_ids=[token])
    assert path.token_ids == free.token_ids[: end + 1]
    assert path.stop_reason == token
    assert path.text == llm.tokenizer.decode(free.token_ids[:end])
    later = one(llm, stop_token_ids=[token], min_tokens=20)
    assert token not in later.token_ids[:20]


def test_end_of_sequence_stops_unless_ignored(llm: LLM) -> None:
    path = one(llm, logit_bias={EOS: 100.0}, ignore_eos=False)
    assert (path.token_ids, path.finish_reason, path.stop_reason) == ([EOS], "stop", None)
    assert path.text == ""
    late = one(llm, logit_bias={EOS: 100.0}, ignore_eos=False, min_tokens=5)
    assert len(late.token_ids) == 6
    assert len(one(llm, logit_bias={EOS: 100.0}).token_ids) == 48


def test_logit_bias_bans_and_forces(llm: LLM) -> None:
    free = one(llm, temperature=0)
    banned = free.token_ids[0]
    assert banned not in one(llm, temperature=0, logit_bias={banned: -math.inf}).token_ids
    assert set(one(llm, logit_bias={70: 1e4}).token_ids) == {70}
    with pytest.raises(NumericalError, match="every token is banned"):
        one(llm, logit_bias=dict.fromkeys(range(BYTE_VOCAB), -math.inf))


def test_repetition_penalty_equals_transformers(llm: LLM) -> None:
    ids = torch.tensor([llm.tokenizer(PROMPT)["input_ids"]])
    expected = MODEL.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=48,
        eos_token_id=2**30,
        logits_processor=LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.7)]),
    )
    path = one(llm, temperature=0, repetition_penalty=1.7)
    assert path.token_ids == expected[0, ids.shape[1] :].tolist()


def test_presence_and_frequency_penalties_by_hand(llm: LLM) -> None:
    path = one(llm, temperature=0, presence_penalty=0.7, frequency_penalty=0.4)
    tokens = llm.tokenizer(PROMPT)["input_ids"]
    counts = torch.zeros(BYTE_VOCAB, dtype=torch.float64)
    for token in path.token_ids:
        with torch.no_grad():
            logits = MODEL(torch.tensor([tokens])).logits[0, -1]
        assert token == int((logits - 0.4 * counts - 0.7 * (counts > 0)).argmax())
        counts[token] += 1
        tokens = [*tokens, token]


@pytest.mark.parametrize("mode", ["raw_logprobs", "full_logprobs", "processed_logprobs"])
def test_logprobs_under_each_convention(mode: str) -> None:
    llm = LLM(MODEL, tokenizer=byte_tokenizer(), kv_cache_tokens=2048, logprobs_mode=mode)
    path = one(llm, temperature=0.5, top_k=5, logprobs=3)
    ids = llm.tokenizer(PROMPT)["input_ids"]
    raw = sequence_logprobs(MODEL, ids, path.token_ids)
    want = raw
    if mode != "raw_logprobs":
        want = torch.log_softmax(raw / 0.5, -1)
    if mode == "processed_logprobs":
        kept = raw >= raw.topk(5, dim=-1).values[:, -1:]
        want = torch.log_softmax(torch.where(kept, raw / 0.5, -torch.inf), -1)
    chosen = want[range(len(path.token_ids)), path.token_ids]
    np.testing.assert_allclose(path.token_logprobs, chosen.numpy(), atol=2e-6)
    assert math.isclose(path.cumulative_logprob, sum(path.token_logprobs))
    for position, found in enumerate(path.logprobs):
        best = raw[position].topk(3)
        assert set(best.indices.tolist()) <= set(found)
        for place, (value, other) in enumerate(zip(*best, strict=True), start=1):
            if int(other) != path.token_ids[position]:  # whose own log-prob is as reported
                assert found[int(other)].logprob == pytest.approx(float(value), abs=2e-6)
            assert found[int(other)].rank == place
        token = path.token_ids[position]
        assert found[token].rank == int((raw[position] > raw[position, token]).sum()) + 1


def test_prompt_logprobs(llm: LLM) -> None:
    params = SamplingParams(max_tokens=2, prompt_logprobs=2)
    result = llm.generate([PROMPT, "x"], params, use_tqdm=False)
    ids = result[0].prompt_token_ids
    raw = sequence_logprobs(MODEL, ids[:1], ids[1:])
    assert result[0].prompt_logprobs[0] is None
    for position, token in enumerate(ids[1:]):
        found = result[0].prompt_logprobs[position + 1]
        assert abs(found[token].logprob - float(raw[position, token])) < 1e-6
        assert len(found) in (2, 3)
    assert result[1].prompt_logprobs == [None]


def test_chat_uses_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    params = SamplingParams(max_tokens=3, temperature=0)
    text = llm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    by_text = llm.generate([text], params, use_tqdm=False)[0]
    by_chat = llm.chat(messages, params, use_tqdm=False)[0]
    assert by_chat.prompt_token_ids == by_text.prompt_token_ids
    assert by_chat.outputs[0].token_ids == by_text.outputs[0].token_ids


def test_bad_prompts_are_refused(llm: LLM) -> None:
    with pytest.raises(ConfigError, match="prompt 1 is empty"):
        llm.generate(["a", ""], use_tqdm=False)
    with pytest.raises(ConfigError, match=r"token ids must be in \[0, 259\)"):
        llm.generate([[1, 259]], use_tqdm=False)
    with pytest.raises(PromptTooLong, match="prompt 0 has 600 tokens"):
        llm.generate(["a" * 600], use_tqdm=False)
    with pytest.raises(ConfigError, match="2 sampling_params for 1 prompts"):
        llm.generate(["a"], [SamplingParams()] * 2, use_tqdm=False)
    with pytest.raises(ConfigError, match="token id 400"):
        one(llm, stop_token_ids=[400])


def test_the_context_ends_a_path(llm: LLM) -> None:
    path = one(llm, "a" * 505, max_tokens=None)
    assert (len(path.token_ids), path.finish_reason) == (7, "length")


def test_a_folder_is_loaded_and_new_weights_are_seen(tmp_path: Path) -> None:
    llm = LLM(save_model(tmp_path / "model", "qwen2", 4), kv_cache_tokens=2048)
    greedy = {"temperature": 0, "max_tokens": 24}
    before = one(llm, **greedy).token_ids
    other = make_model("qwen2", 4, vocab_size=BYTE_VOCAB)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.0 + 0.3 * torch.randn(parameter.shape, generator=generator))
    own = LLM(other, tokenizer=byte_tokenizer(), kv_cache_tokens=2048)
    expected = one(own, **greedy).token_ids
    assert expected != before
    names = llm.load_weights(("base_model.model." + n, p) for n, p in other.named_parameters())
    assert len(names) == len(list(other.named_parameters()))
    assert one(llm, **greedy).token_ids == expected, "cached prompts of the old weights were used"
    with torch.no_grad():  # a trainer's step, also one that goes around autograd's versions
        for parameter in llm.model.parameters():
            parameter.data.mul_(0.5)
    changed = one(llm, **greedy).token_ids
    fresh = LLM(llm.model, tokenizer=byte_tokenizer(), kv_cache_tokens=2048)
    assert changed == one(fresh, **greedy).token_ids
    with pytest.raises(ModelError, match="did you mean"):
        llm.load_weights([("model.embed_token.weight", torch.zeros(1))])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_adapters_are_sampled_and_switched() -> None:
    peft = pytest.importorskip("peft")
    base = make_model("llama", 8, vocab_size=BYTE_VOCAB)
    plain = one(LLM(base, tokenizer=byte_tokenizer(), kv_cache_tokens=1024), temperature=0)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(base, lora)
    llm = LLM(wrapped, tokenizer=byte_tokenizer(), kv_cache_tokens=1024)
    adapted = one(llm, temperature=0)
    assert adapted.token_ids != plain.token_ids
    with wrapped.disable_adapter():
        assert one(llm, temperature=0).token_ids == plain.token_ids
    assert one(llm, temperature=0).token_ids == adapted.token_ids


def test_damaged_and_missing_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        LLM(tmp_path / "nothing")
    folder = save_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x07garbage")
    with pytest.raises(ModelError, match="cannot load model"):
        LLM(folder)
    with pytest.raises(ModelError, match=r"model file .* does not exist"):
        LLM(tmp_path / "x.gguf")
