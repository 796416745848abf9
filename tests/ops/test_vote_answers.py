"""`vote_answers` against decoding, `answer_key` and `majority`, over backends and tokenizers."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest
import torch

from fastsi.errors import ConfigError
from fastsi.ops import AnswerVotes, TokenBytes, VoteOptions
from fastsi.types import EXTRACTORS
from fastsi.vote import majority
from fastsi.vote import vote_answers as vote_answers_on
from fastsi.vote.extract import reference_answer_key
from tests.ops.support import runners, running, torch_threads
from tests.support.responses import SPANS, response

BACKENDS = runners("vote_answers")
# Tokens that split words, answers and characters of several bytes.
PIECES = ["The answer is ", "answer", " is", "\\boxed", "{", "}", "####", "18", ". ", "\n", "Q:"]


def vote_answers(
    *arguments: Any, backend: str, **options: torch.Tensor | VoteOptions | None
) -> AnswerVotes:
    """The op, with its tensors on the backend's device."""

    def moved(value: Any) -> Any:
        return value.cuda() if isinstance(value, torch.Tensor) and backend == "cuda" else value

    named: dict[str, Any] = {name: moved(value) for name, value in options.items()}
    return vote_answers_on(*map(moved, arguments), backend=backend, **named)


def make_table() -> TokenBytes:
    """Ids 0 to 255 are bytes; then whole pieces; the last is special."""
    parts = [bytes([byte]) for byte in range(256)] + [piece.encode() for piece in PIECES]
    return TokenBytes.from_parts([*parts, b""], [0] * len(parts) + [1])


def encode(text: str, rng: random.Random) -> list[int]:
    """Token ids that spell ``text``, with special tokens sprinkled in."""
    data, ids = text.encode(), []
    while data:
        fitting = [i for i, piece in enumerate(PIECES) if data.startswith(piece.encode())]
        if fitting and rng.random() < 0.8:
            piece = rng.choice(fitting)
            ids.append(256 + piece)
            data = data[len(PIECES[piece].encode()) :]
        else:
            ids.append(data[0])
            data = data[1:]
        if rng.random() < 0.02:
            ids.append(256 + len(PIECES))
    return ids


@dataclasses.dataclass
class Case:
    """Paths as tokens, and the texts that they spell."""

    texts: list[str]
    groups: list[int]
    tokens: torch.Tensor
    path_indptr: torch.Tensor
    group_indptr: torch.Tensor


def make_case(seed: int, groups: int, dtype: torch.dtype = torch.int32) -> Case:
    rng = random.Random(seed)
    sizes = [rng.choice((0, 1, 2, 5, 17)) for _ in range(groups)]
    answers = [rng.choices(SPANS, k=3) for _ in sizes]
    texts, ids = [], []
    for size, spans in zip(sizes, answers, strict=True):
        for _ in range(size):
            text = response(rng) + rng.choice(("", f"\nThe answer is {rng.choice(spans)}.\n"))
            tokens = encode(text, rng)
            if rng.random() < 0.1:  # a path may end inside a character
                tokens = tokens[: rng.randint(0, len(tokens))]
            ids.append(tokens)
            table = make_table()
            texts.append(table.decode(tokens))
    flat = [token for path in ids for token in path]
    return Case(
        texts=texts,
        groups=[0, *torch.tensor(sizes).cumsum(0).tolist()],
        tokens=torch.tensor(flat, dtype=dtype),
        path_indptr=torch.tensor([0, *map(len, ids)]).cumsum(0),
        group_indptr=torch.tensor([0, *sizes]).cumsum(0),
    )


def assert_same(got: AnswerVotes, want: AnswerVotes) -> None:
    for field in dataclasses.fields(AnswerVotes):
        one, two = getattr(got, field.name), getattr(want, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == two.dtype, field.name
            assert torch.equal(one, two), field.name
        else:
            assert one == two, field.name


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("groups", [0, 1, 40])
def test_votes_are_those_of_decoded_texts(name: str, groups: int) -> None:
    case = make_case(seed=groups, groups=groups)
    with running(name) as backend:
        got = vote_answers(
            case.tokens, case.path_indptr, case.group_indptr, make_table(), backend=backend
        )
    keys = [reference_answer_key(text) for text in case.texts]
    assert got.keys == list(dict.fromkeys(key for key in keys if key is not None))
    votes = got.to_votes("full")
    assert len(votes) == groups
    for group, found in enumerate(votes):
        mine = slice(case.groups[group], case.groups[group + 1])
        assert found == majority(keys[mine])
        assert got.keep[mine].tolist() == [
            found.winner is not None and found.margin >= 1 and key == found.winner
            for key in keys[mine]
        ]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_weights_and_log_probabilities_are_those_of_majority(name: str, seed: int) -> None:
    case = make_case(seed=seed, groups=30, dtype=torch.int64)
    rng = random.Random(seed)
    paths = len(case.texts)
    weights = [rng.choice((0.25, 1.0, 1e-9, rng.random() * 10)) for _ in range(paths)]
    scores = [rng.choice((-5.0, -math.inf, math.nan, -rng.random())) for _ in range(paths)]
    keys = [reference_answer_key(text) for text in case.texts]
    for weighted in (False, True):
        with running(name) as backend:
            got = vote_answers(
                case.tokens,
                case.path_indptr,
                case.group_indptr,
                make_table(),
                logprobs=torch.tensor(scores, dtype=torch.float64),
                weights=torch.tensor(weights, dtype=torch.float64) if weighted else None,
                backend=backend,
            )
        for group, found in enumerate(got.to_votes()):
            mine = slice(case.groups[group], case.groups[group + 1])
            wanted = majority(keys[mine], scores[mine], weights=weights[mine] if weighted else None)
            assert list(found.counts.items()) == list(wanted.counts.items())
            assert found.weights == wanted.weights
            assert found == wanted


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_options_reach_every_backend(name: str, extractor: str) -> None:
    case = make_case(seed=7, groups=12)
    options = VoteOptions(
        extractor=extractor, last_number=True, run_on=("Exercise",), min_lead=2, min_share=0.5
    )
    arguments = (case.tokens, case.path_indptr, case.group_indptr, make_table())
    with running(name) as backend:
        got = vote_answers(*arguments, options=options, backend=backend)
    assert_same(got, vote_answers(*arguments, options=options, backend="reference"))
    for group in range(12):
        mine = slice(case.groups[group], case.groups[group + 1])
        clear = int(got.margin[group]) >= 2 and float(got.share[group]) >= 0.5
        assert bool(got.keep[mine].any()) == (clear and int(got.winner[group]) >= 0)


def test_threads_and_repetition_change_nothing() -> None:
    case = make_case(seed=3, groups=60)
    arguments = (case.tokens, case.path_indptr, case.group_indptr, make_table())
    with torch_threads(1):
        one = vote_answers(*arguments, backend="cpu")
    for threads in (2, 5):
        with torch_threads(threads):
            assert_same(vote_answers(*arguments, backend="cpu"), one)


@pytest.mark.parametrize("name", BACKENDS)
def test_ties_go_to_the_likelier_and_then_the_first_path(name: str) -> None:
    texts = ["The answer is 5.", "The answer is 7.", "", "The answer is 7.", "The answer is 5."]
    ids = [list(text.encode()) for text in texts]
    arguments = (
        torch.tensor([token for path in ids for token in path]),
        torch.tensor([0, *map(len, ids)]).cumsum(0),
        torch.tensor([0, 5]),
        make_table(),
    )
    with running(name) as backend:
        plain = vote_answers(*arguments, backend=backend)
        scores = torch.tensor([-2.0, -1.0, 0.0, -1.0, -2.0], dtype=torch.float64)
        scored = vote_answers(*arguments, logprobs=scores, backend=backend)
    assert plain.keys == ["num:5", "num:7"]
    assert plain.key_id.tolist() == [0, 1, -1, 1, 0]
    assert (plain.winner.tolist(), plain.tie.tolist()) == ([0], [True])
    assert (scored.winner.tolist(), scored.tie.tolist()) == ([1], [True])
    assert plain.share.tolist() == [0.4]
    assert plain.entropy.item() == pytest.approx(math.log(2))
    assert not plain.keep.any()  # no lead


@pytest.mark.parametrize("name", BACKENDS)
def test_bad_arguments_are_named(name: str) -> None:
    table = make_table()
    tokens, paths, groups = torch.tensor([49, 50]), torch.tensor([0, 1, 2]), torch.tensor([0, 2])

    def refuses(match: str, *arguments: torch.Tensor, **options: torch.Tensor) -> None:
        with running(name) as backend, pytest.raises(ValueError, match=match):
            vote_answers(*arguments, table, backend=backend, **options)

    refuses(r"tokens: .* is not a token id", torch.tensor([49, table.size]), paths, groups)
    refuses(r"tokens: -1 is not a token id", torch.tensor([49, -1]), paths, groups)
    refuses(r"path_indptr: spans \[0, 3\], must span \[0, 2\]", tokens, paths + paths // 2, groups)
    refuses("path_indptr: must not fall", tokens, torch.tensor([0, 2, 1, 2]), torch.tensor([0, 3]))
    refuses(r"group_indptr: spans \[0, 2\], must span", tokens, torch.tensor([0, 2]), groups)
    refuses("group_indptr: dtype", tokens, paths, groups.int())
    refuses("group_indptr: is empty", tokens, paths, groups[:0])
    zeros = torch.zeros(2, dtype=torch.float64)
    refuses("weights: all of group 0 are 0", tokens, paths, groups, weights=zeros)
    refuses("weights: dtype", tokens, paths, groups, weights=zeros.float())
    refuses("finite number", tokens, paths, groups, weights=zeros + math.nan)
    refuses("logprobs: shape", tokens, paths, groups, logprobs=zeros[:1])


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"'boxd'.*'boxed'"):
        VoteOptions(extractor="boxd")
    with pytest.raises(ConfigError, match="run_on"):
        VoteOptions(run_on=("Q", ""))
    with pytest.raises(ConfigError, match="min_share"):
        VoteOptions(min_share=math.nan)
