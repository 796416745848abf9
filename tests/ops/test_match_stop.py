"""`match_stop` and `answer_end`: rules by example, twins by fuzzing, any cut into tokens alike."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi import ops
from fastsi.ops.match_stop import _cpu, answers
from fastsi.ops.match_stop.state import TextRules
from fastsi.ops.token_bytes import SKIPPED
from fastsi.vote import answer_key
from tests.ops.support import device_of, runners, running
from tests.support.devices import call_on

SEED = 20261123
BYTES = ops.TokenBytes.from_parts([bytes([value]) for value in range(256)], [0] * 256)

COMPLETE = [
    # text, the part of it that a path stopped at its answer has written
    ("The answer is 12. So", "The answer is 12."),
    ("The answer is 12.\n", "The answer is 12."),
    ("The answer is 12.5. Then", "The answer is 12.5."),
    ("The answer is 1,234!\n", "The answer is 1,234!"),
    ("The answer is 12\nQ: next", "The answer is 12"),
    ("**The answer is 18.** Next", "**The answer is 18."),
    ("**Answer:** 18\nmore", "**Answer:** 18"),
    ("ANSWER IS: (B). so", "ANSWER IS: (B)."),
    ("Answer:\n\n42\nfoo", "Answer:\n\n42"),
    ("The final answer is $18$. I hope it is", "The final answer is $18$."),
    ("the answer is $5. That", "the answer is $5."),
    ("The answer is \\(\\frac{1}{2}\\). Next", "The answer is \\(\\frac{1}{2}\\)."),
    ("the answer is yes. ok", "the answer is yes."),
    ("the answer is No, since 3 > 2.\n", "the answer is No, since 3 > 2."),
    ("The answer is E. Next", "The answer is E."),
    ("the answer is (e). Next", "the answer is (e)."),
    ("so \\boxed{\\frac{1}{2}} and", "so \\boxed{\\frac{1}{2}}"),
    ("so \\fbox {a\\}b} and", "so \\fbox {a\\}b}"),
    ("The answer is \\boxed{5}. Next", "The answer is \\boxed{5}"),
    ("x\n#### 18\n\nQuestion:", "x\n#### 18"),
    ("#### $1,000\nx", "#### $1,000"),
    ("<answer>5 apples</answer> x", "<answer>5 apples</answer>"),
    ("<ANSWER>\n5\n</Answer>", "<ANSWER>\n5\n</Answer>"),
    ("The answer is not 4. The answer is 3. ", "The answer is not 4. The answer is 3."),
    ("<think>the answer is 5. </think> the answer is 6. x",
     "<think>the answer is 5. </think> the answer is 6."),
]  # fmt: skip

INCOMPLETE = [
    "The answer is 1",
    "The answer is 12",
    "The answer is 12.",
    "The answer is 12.5",
    "The answer is 12.**",
    "The answer is not 5. So",
    "The answer is unknown.\n",
    "The answer is the number of apples that Tom has.\n",
    "The answer is about 5. x",
    "the answer is e. x",
    "To answer it, take 5. x",
    "bananswer: 5. x",
    "Answer: 2 +\n",
    "\\boxed{",
    "\\boxed{}",
    "\\boxed{ }",
    "boxed{5}",
    "\\boxed{\\frac{1}{2}",
    "\\boxed{5\\}",
    "#### Step 1: add\n",
    "#### 1. First step\n",
    "### 18\n",
    "x #### 18\n",
    "#### 18",
    "<answer></answer>",
    "5</answer>",
    "<think>the answer is 5. So ",
    "<think>\n#### 5</think>\n",
    "",
]


@pytest.mark.parametrize(("text", "kept"), COMPLETE)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_first_completed_answer_ends_a_text(text: str, kept: str, backend: str) -> None:
    end = ops.answer_end(text, backend=backend)
    assert end is not None
    assert text[:end] == kept
    assert answer_key(kept) is not None


@pytest.mark.parametrize("text", INCOMPLETE)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_nothing_is_complete_here(text: str, backend: str) -> None:
    assert ops.answer_end(text, backend=backend) is None


def test_answers_before_begin_do_not_count() -> None:
    text = "\u00e9 The answer is 5. No, the answer is 6. End"
    assert text[: ops.answer_end(text)].endswith("5.")
    assert text[: ops.answer_end(text, text.index("No"))].endswith("6.")
    assert ops.answer_end(text, text.index("End")) is None


VALUES = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.integers(0, 10**6).map(lambda n: f"${n:,}"),
    st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda p: f"{p[0]}.{p[1]}"),
    st.tuples(st.integers(0, 99), st.integers(1, 99)).map(lambda p: f"{p[0]}/{p[1]}"),
    st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}"),
    st.tuples(st.integers(0, 99), st.sampled_from(["apples", "km per hour", "%", "years old"])).map(
        lambda p: f"{p[0]} {p[1]}"
    ),
    st.sampled_from(["(a)", "(B)", "C", "D)", "yes", "No", "True", "3:30 pm", "2 + 3 = 5"]),
)
FRAMES = st.sampled_from(
    [
        "The answer is {}. ", "the answer is {}.\n", "So the answer is: **{}**\n", "Answer: {}\n",
        "**Final Answer**: ${}$. I hope", "\\boxed{{{}}} ", "#### {}\n", "<answer>{}</answer>",
        "Answers: {}!\n", "The answer is\n{}\n",
    ]
)  # fmt: skip
LEADS = st.sampled_from(
    ["", "2+3=5. ", "First, 3 apples. Then\n\n", "I think it is 7.\n", "Step 1.\n"]
)
TAILS = st.sampled_from(["", "Q: next? The answer is 9.\n", "But wait, \\boxed{8} is it.", "ok"])


@settings(max_examples=400, deadline=None)
@given(LEADS, FRAMES, VALUES, TAILS)
def test_what_is_kept_has_the_key_of_the_value(
    lead: str, frame: str, value: str, tail: str
) -> None:
    text = lead + frame.format(value) + tail
    end = ops.answer_end(text)
    if end is None:
        return
    key = answer_key(text[:end])
    assert key is not None, text[:end]
    if end <= len(lead + frame.format(value)):
        assert key == answer_key(f"The answer is {value}."), text[:end]


PIECES = [
    "\\boxed", "\\fbox", "{", "}", "\\", "####", "#", "\n", " ", "\t", "\r", ".", "!", "?", "*",
    "**", "$", "_", ")", "]", "(", "[", "answer", "Answer", "ANSWERS", " is", ":", "<answer>",
    "</answer>", "</ANSWER>", "<think>", "</think>", ">", "<", "12", "3.5", "yes", "No,", "A", "e",
    "\\frac", "\u00e9", "\uff1a", "apples", "+", "-", "=", ",", "~", '"', "'", "answer is 5. ",
    "x" * 40, " " * 30,
]  # fmt: skip


def mutated(rng: random.Random) -> bytes:
    """A text of pieces that the rules know, sometimes with random bytes."""
    parts = [rng.choice(PIECES).encode() for _ in range(rng.randrange(1, 30))]
    if rng.random() < 0.2:
        parts.insert(rng.randrange(len(parts)), rng.randbytes(rng.randrange(1, 9)))
    return b"".join(parts)


def test_twins_agree_on_random_texts() -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    found = 0
    for _ in range(6000):
        text, begin, thinking = mutated(rng), rng.randrange(3), rng.random() < 0.1
        want = answers.first_answer(text, begin, thinking)
        assert _cpu.first_answer(text, begin, thinking) == want, (text, begin, thinking)
        found += want >= 0
    assert found > 500, "the texts hardly ever complete an answer"


def test_a_window_is_all_that_a_rule_sees() -> None:
    near, far = "Answer: " + " " * 40 + "5\n", "Answer: " + " " * answers.WINDOW + "5\n"
    for backend in ("reference", "cpu"):
        assert ops.answer_end("x " * 500 + near, backend=backend) is not None
        assert ops.answer_end(far, backend=backend) is None
        assert ops.answer_end("x" * 1000 + "#### 5\n", backend=backend) is None
        assert ops.answer_end("x" * 1000 + "\n#### 5\n", backend=backend) is not None


@pytest.mark.parametrize("byte", ["}", "{", "\\", " ", "\n", ">", "#", ".", "answer ", "}\\", ". "])
def test_long_repetitions_take_linear_time(byte: str) -> None:
    """Nothing is remembered beyond the window, so the work per byte is bounded."""
    assert _cpu.first_answer((byte * 300_000).encode()[:300_000]) == -1


def feed(
    texts: list[list[bytes]], classes: list[TextRules], rows: list[int], backend: str
) -> list[int | None]:
    """Feed texts, given as tokens, side by side; returns the index of each text's first hit."""
    distinct = sorted({token for text in texts for token in text})
    number = {token: i for i, token in enumerate(distinct)}
    table = ops.TokenBytes.from_parts(distinct, [0] * len(distinct))
    rules = ops.StopRules.make(classes)
    state = ops.StopState.make(len(texts) + 2, rules.width)
    for slot, rule in enumerate(rows):
        state.begin(slot, rule)
    first: list[int | None] = [None] * len(texts)
    for step in range(max(map(len, texts))):
        slots = [i for i, text in enumerate(texts) if step < len(text)]
        tokens = torch.tensor([number[texts[i][step]] for i in slots])
        given = (tokens, torch.tensor(slots), table, rules, state)
        hits = call_on(device_of(backend), ops.match_stop, *given, backend=backend)
        for slot, hit in zip(slots, hits.tolist(), strict=True):
            if hit and first[slot] is None:
                first[slot] = step
    return first


def cut(rng: random.Random, text: bytes) -> list[bytes]:
    """A random cut into tokens, empty ones among them."""
    tokens, at = [], 0
    while at < len(text):
        size = rng.choice((0, 1, 1, 2, 3, 5, 9, 40))
        tokens.append(text[at : at + size])
        at += size
    return tokens or [b""]


@pytest.mark.parametrize("runner", runners("match_stop"))
def test_any_cut_into_tokens_hits_at_the_token_that_completes(runner: str) -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    stops = ["\nQ:", "END", "\u00e9\u00e9", "z" * 300]
    classes: list[TextRules] = [(stops, False, True), ([], True, True), (stops[:2], True, False)]
    with running(runner) as backend:
        for _ in range(12):
            whole = [mutated(rng) for _ in range(16)]
            whole = [
                text if rng.random() < 0.7 else text + rng.choice(stops).encode() + mutated(rng)
                for text in whole
            ]
            rows = [rng.randrange(-1, 3) for _ in whole]
            texts = [cut(rng, text) for text in whole]
            found = feed(texts, classes, rows, backend)
            for text, tokens, rule, first in zip(whole, texts, rows, found, strict=True):
                assert first == expected(
                    text, tokens, classes[rule] if rule >= 0 else ([], False, True)
                )


def expected(text: bytes, tokens: list[bytes], rules: TextRules) -> int | None:
    """The token that completes the first stop string or answer, found in the whole text."""
    ends = [
        at + len(stop.encode()) - 1 for stop in rules[0] if (at := text.find(stop.encode())) >= 0
    ]
    if rules[1]:
        upto = next(
            (n for n in range(1, len(text) + 1) if answers.first_answer(text[:n]) >= 0), None
        )
        ends += [] if upto is None else [upto - 1]
    if not ends:
        return None
    at = -1
    for number, token in enumerate(tokens):
        at += len(token)
        if at >= min(ends):
            return number
    raise AssertionError("the text is longer than its tokens")


@pytest.mark.parametrize("runner", runners("match_stop"))
def test_a_slot_may_begin_in_the_middle_of_its_text(runner: str) -> None:
    """As a path that was preempted goes on: its text so far is given at once."""
    with running(runner) as backend:
        for text in ("The answer is 5. ", "x <think> the answer is 5. </think>The answer is 6. "):
            data, end = text.encode(), len(text) - 1
            rules = ops.StopRules.make([([], True, True)])
            for begin in range(len(data)):
                state = ops.StopState.make(1, rules.width)
                state.begin(0, 0, data[:begin])
                hits = []
                for byte in data[begin:]:
                    pair = torch.tensor([byte]), torch.tensor([0])
                    given = (*pair, BYTES, rules, state)
                    hit = call_on(device_of(runner), ops.match_stop, *given, backend=backend)
                    hits.append(int(hit))
                assert hits == [int(at == end) for at in range(begin, len(data))]


def test_bad_arguments_are_named() -> None:
    rules = ops.StopRules.make([(["x" * 300], False, True)])
    good = ops.StopState.make(2, rules.width)
    good.begin(0, 0)
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="slots: shape"):
        ops.match_stop(one, torch.tensor([0, 1]), BYTES, rules, good)
    with pytest.raises(ValueError, match="tokens: dtype"):
        ops.match_stop(one.int(), one, BYTES, rules, good)
    with pytest.raises(ValueError, match="holds 256 bytes, must hold 300"):
        ops.match_stop(one, one, BYTES, rules, ops.StopState.make(2, 256))
    with pytest.raises(ValueError, match=r"slots\[0\]: is 2, must be in 0\.\.1"):
        ops.match_stop(one, torch.tensor([2]), BYTES, rules, good, backend="cpu")
    with pytest.raises(ValueError, match=r"tokens\[0\]: is -1, must be at least 0"):
        ops.match_stop(torch.tensor([-1]), one, BYTES, rules, good, backend="cpu")


@pytest.mark.parametrize("runner", runners("match_stop"))
def test_special_tokens_are_text_only_where_the_class_says_so(runner: str) -> None:
    """Three tokens of which the middle one is special, and one that the table lacks."""
    table = ops.TokenBytes.from_parts([b"EN", b"<end>", b"D"], [0, SKIPPED, 0])
    rules = ops.StopRules.make([(["END"], False, True), (["EN<end>D"], False, False)])
    with running(runner) as backend:
        state = ops.StopState.make(2, rules.width)
        state.begin(0, 0)
        state.begin(1, 1)
        hits = [
            call_on(
                device_of(runner),
                ops.match_stop,
                *(torch.tensor([token] * 2), torch.arange(2), table, rules, state),
                backend=backend,
            ).tolist()
            for token in (0, 1, 7, 2)
        ]
    assert hits == [[0, 0], [0, 0], [0, 0], [1, 1]]
