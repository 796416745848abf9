"""Stop strings and stop-at-answer: found step by step as the whole text shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import fastsi
from fastsi import api, ops
from fastsi.data.stories import make_problems
from fastsi.engine.token_bytes import token_bytes
from fastsi.errors import ConfigError
from fastsi.types import SamplingParams
from fastsi.vote import answer_key
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model


@pytest.fixture(scope="module")
def bundled() -> fastsi.LLM:
    return api.load_model("builtin")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [f"Q: {story.question}\nA:" for story in make_problems("evaluate", 25, seed=8)]


@pytest.mark.parametrize("stop", [(), ("\nQ:",), ("\n\n", "Q:", "is 1")], ids=str)
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stopped_path_is_the_full_path_cut_at_its_first_answer(
    bundled: fastsi.LLM, prompts: list[str], stop: tuple[str, ...], ignore_eos: bool
) -> None:
    """300 paths each; without end of sequence the model runs on into further questions."""
    full = SamplingParams(
        n=12, temperature=0.9, max_tokens=90, stop=stop, seed=3, ignore_eos=ignore_eos
    )
    stopped = replace(full, stop_at_answer=True)
    before = bundled.generate(prompts, full, use_tqdm=False)
    after = bundled.generate(prompts, stopped, use_tqdm=False)
    cut = 0
    for whole, short in zip(before, after, strict=True):
        for left, right in zip(whole.outputs, short.outputs, strict=True):
            end = ops.answer_end(left.text)
            assert right.text == left.text[:end]
            assert answer_key(right.text) == answer_key(left.text[:end])
            assert right.token_ids == left.token_ids[: len(right.token_ids)]
            if end is not None:
                assert (right.finish_reason, right.stop_reason) == ("stop", "answer")
                assert answer_key(right.text) is not None
                cut += len(right.token_ids) < len(left.token_ids)
            elif right.stop_reason != "answer":
                assert right.token_ids == left.token_ids
                assert right.stop_reason == left.stop_reason
    # Nineteen paths in twenty end by themselves right after their answer.
    assert cut > 10 if ignore_eos else cut < 30


@pytest.mark.parametrize("config", [{"max_batch_rows": 5}, {"kv_cache_tokens": 480}], ids=str)
def test_batches_and_preemption_change_nothing(config: dict[str, Any], prompts: list[str]) -> None:
    """A preempted path goes on in the middle of its text, perhaps of its answer."""
    params = SamplingParams(
        n=4, temperature=0.9, max_tokens=60, stop_at_answer=True, seed=3, ignore_eos=True
    )
    ample = api.load_model("builtin", dtype="float64")
    tight = api.load_model("builtin", dtype="float64", **config)
    want = ample.generate(prompts[:8], params, use_tqdm=False)
    got = tight.generate(prompts[:8], params, use_tqdm=False)
    for left, right in zip(want, got, strict=True):
        assert [path.text for path in left.outputs] == [path.text for path in right.outputs]
        assert [p.stop_reason for p in left.outputs] == [p.stop_reason for p in right.outputs]
    if "kv_cache_tokens" in config:
        assert tight.stats()["preemptions"] > 0


def tiny(**config: Any) -> fastsi.LLM:
    model = make_model("llama", 5, vocab_size=BYTE_VOCAB, dtype=torch.float64)
    return fastsi.LLM(model, tokenizer=byte_tokenizer(), kv_cache_tokens=4096, **config)


def test_stop_strings_are_found_where_the_whole_text_shows_them() -> None:
    """Random stop strings of one to three characters, as a search in the full text finds them."""
    llm, rng = tiny(), np.random.default_rng(5)
    free = SamplingParams(n=40, max_tokens=60, seed=2, ignore_eos=True)
    texts = [path.text for path in llm.generate("start", free, use_tqdm=False)[0].outputs]
    found = 0
    for _ in range(6):
        pieces = [text[at : at + size] for text, at, size in zip(
            rng.choice(texts, 3), rng.integers(5, 50, 3), (1, 2, 3), strict=True
        )]  # fmt: skip
        stops = tuple(piece for piece in pieces if piece and "\ufffd" not in piece)
        if not stops:
            continue
        params = replace(free, stop=stops)
        for path, text in zip(
            llm.generate("start", params, use_tqdm=False)[0].outputs, texts, strict=True
        ):
            ends = [(text.find(stop), stop) for stop in stops if stop in text]
            if ends:
                found += 1
                assert (path.text, path.stop_reason) == (text[: min(ends)[0]], min(ends)[1])
            else:
                assert (path.text, path.finish_reason) == (text, "length")
    assert found > 20


def test_before_min_tokens_nothing_ends_a_path(bundled: fastsi.LLM) -> None:
    """What was complete by then does not count; what is completed later does."""
    prompt = "Q: Ann has 3 apples and buys 4 more. How many apples does Ann have?\nA:"
    free = SamplingParams(temperature=0.7, max_tokens=80, seed=1, ignore_eos=True)
    first = bundled.generate(prompt, replace(free, stop_at_answer=True), use_tqdm=False)
    length = len(first[0].outputs[0].token_ids)
    assert length < 60
    # Until then end of sequence is banned too, so the path may be another one from there on.
    plain = replace(free, min_tokens=length + 1)
    whole = bundled.generate(prompt, plain, use_tqdm=False)[0].outputs[0]
    later = replace(plain, stop_at_answer=True)
    path = bundled.generate(prompt, later, use_tqdm=False)[0].outputs[0]
    done = bundled.get_tokenizer().decode(whole.token_ids[:length])  # type: ignore[union-attr]
    assert path.text == whole.text[: ops.answer_end(whole.text, len(done))]
    assert len(path.token_ids) > length


def test_rows_with_and_without_rules_share_a_batch(bundled: fastsi.LLM, prompts: list[str]) -> None:
    free = SamplingParams(n=3, max_tokens=50, seed=3, ignore_eos=True)
    kinds = [
        free,
        replace(free, stop=("is",)),
        replace(free, stop_at_answer=True),
        replace(free, stop_at_answer=True, skip_special_tokens=False),
    ]
    together = bundled.generate([prompts[0]] * 4, kinds, use_tqdm=False)
    # Copies go on with the numbering: the paths of n=12 are the four times three.
    whole = bundled.generate(prompts[0], replace(free, n=12), use_tqdm=False)[0].outputs
    for kind, group in enumerate(together):
        for path, full in zip(group.outputs, whole[3 * kind : 3 * kind + 3], strict=True):
            if kind == 0:
                assert path.text == full.text
            elif kind == 1:
                assert path.text == full.text.partition("is")[0]
            elif kind == 2:
                assert path.text == full.text[: ops.answer_end(full.text)]
            else:
                assert (
                    path.text.replace("</s>", "") == full.text[: len(path.text.replace("</s>", ""))]
                )


def test_it_needs_a_tokenizer_and_a_truth_value() -> None:
    model = make_model("llama", 5)
    with pytest.raises(ConfigError, match="stop_at_answer need a tokenizer"):
        fastsi.LLM(model, kv_cache_tokens=64).generate([5, 6], SamplingParams(stop_at_answer=True))
    with pytest.raises(ConfigError, match="stop_at_answer=1: must be True or False"):
        SamplingParams(stop_at_answer=1)  # type: ignore[arg-type]


def unknown_decoder() -> PreTrainedTokenizerFast:
    """A decoder that no table describes: WordPiece joins what begins with two hashes."""
    words = ["[UNK]", "</s>", "the", "answer", "is", "1", "##2", "##.", "a", "##b"]
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="[UNK]")


def test_bytes_of_tokens_of_an_unknown_decoder_join_to_its_text() -> None:
    tokenizer = unknown_decoder()
    with pytest.raises(ConfigError, match="WordPiece"):
        ops.TokenBytes.from_tokenizer(tokenizer)
    table = token_bytes(tokenizer)
    ids = tokenizer("the answer is 12.", add_special_tokens=False)["input_ids"]
    assert table.spell(ids).decode().strip() == tokenizer.decode(ids)
    assert table.spell([*ids, tokenizer.eos_token_id]) == table.spell(ids)
    assert len(table.spell([tokenizer.eos_token_id], skip_special=False)) > 0
    assert table.spell([len(tokenizer) + 5]) == b""


def test_votes_of_stopped_paths_are_votes_over_the_cut_texts(
    bundled: fastsi.LLM, prompts: list[str]
) -> None:
    """With a rule besides: both stops together change no winner of the cut texts."""
    params = SamplingParams(n=12, temperature=0.9, max_tokens=90, seed=3, ignore_eos=True)
    full = bundled.generate(prompts, params, use_tqdm=False)
    votes = bundled.vote(prompts, params, stop_at_answer=True)
    early = bundled.vote(prompts, params, stop_at_answer=True, stopping="exact")
    for group, vote, stopped in zip(full, votes, early, strict=True):
        cut = [path.text[: ops.answer_end(path.text)] for path in group.outputs]
        assert vote.keys == tuple(answer_key(text) for text in cut)
        assert stopped.keys == vote.keys[: stopped.n]
        assert stopped.winner == vote.winner
    assert sum(vote.n for vote in early) < sum(vote.n for vote in votes)


def test_an_extractor_of_one_form_cannot_stop_at_any_answer(bundled: fastsi.LLM) -> None:
    with pytest.raises(ConfigError, match="needs extractor='auto'"):
        bundled.vote("Q", extractor="boxed", stop_at_answer=True)
