"""Kept paths in the formats of the paper, with shares that do not depend on the company."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsi.data.mixing import KeptPath, MixConfig, choose_formats, mix
from fastsi.data.templates import FORMATS, Exemplar, Template
from fastsi.errors import ConfigError
from fastsi.types import Question

SHOTS = Template(
    exemplars=(Exemplar(question="What is 1 + 2?", rationale="1 + 2 = 3.", answer="3"),)
)
ZERO = Template()


def kept(question: int, path: int) -> KeptPath:
    return KeptPath(
        question=Question(id=f"q{question}", question=f"What is {question} + 1?"),
        path=path,
        text=f" Take {path} away: {question} + 1 = {question + 1}. The answer is {question + 1}.\n",
        answer=str(question + 1),
    )


def test_one_path_in_the_four_formats() -> None:
    examples = mix([kept(8, 0)], SHOTS, FORMATS, MixConfig(), seed=0)
    reasoned = " Take 0 away: 8 + 1 = 9. The answer is 9."
    assert [(e.format, e.target) for e in examples] == [
        ("cot", reasoned),
        ("standard", " The answer is 9."),
        ("step_by_step", reasoned),
        ("direct", " The answer is 9."),
    ]
    question = "Q: What is 8 + 1?\nA:"
    assert [e.prompt for e in examples] == [
        "Q: What is 1 + 2?\nA: 1 + 2 = 3. The answer is 3.\n\n" + question,
        "Q: What is 1 + 2?\nA: The answer is 3.\n\n" + question,
        question + " Let's think step by step.",
        question,
    ]


def test_default_formats_never_contradict_the_sampling_prompt() -> None:
    assert choose_formats(MixConfig(), SHOTS, "cot") == list(FORMATS)
    assert choose_formats(MixConfig(), ZERO, "cot") == ["cot", "step_by_step"]
    assert choose_formats(MixConfig(), ZERO, "step_by_step") == ["step_by_step", "direct"]
    assert choose_formats(MixConfig(formats=("direct", "standard")), SHOTS, "cot") == [
        "standard",
        "direct",
    ]


@pytest.mark.parametrize("pair", [("cot", "direct"), ("cot", "standard"), ("direct", "cot")])
def test_one_prompt_with_two_kinds_of_target_is_refused(pair: Any) -> None:
    with pytest.raises(ConfigError, match="same prompt with and without reasoning"):
        choose_formats(MixConfig(formats=pair), ZERO, "cot")


def test_equal_examples_are_kept_once_unless_asked_for() -> None:
    paths = [kept(4, 0), kept(4, 1), kept(5, 0)]
    formats = ["cot", "direct"]
    once = mix(paths, SHOTS, formats, MixConfig(), seed=0)  # type: ignore[arg-type]
    assert [(e.question_id, e.path, e.format) for e in once] == [
        ("q4", 0, "cot"),
        ("q4", 0, "direct"),
        ("q4", 1, "cot"),
        ("q5", 0, "cot"),
        ("q5", 0, "direct"),
    ]
    every = mix(paths, SHOTS, formats, MixConfig(unique=False), seed=0)  # type: ignore[arg-type]
    assert len(every) == 6


@given(st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_a_share_does_not_depend_on_the_other_paths(seed: int, share: float) -> None:
    config = MixConfig(shares={"cot": share}, unique=False)
    paths = [kept(q, p) for q in range(6) for p in range(3)]
    together = mix(paths, SHOTS, FORMATS, config, seed)
    alone = [e for path in paths for e in mix([path], SHOTS, FORMATS, config, seed)]
    assert together == alone
    backwards = mix(paths[::-1], SHOTS, FORMATS, config, seed)
    assert sorted(map(repr, backwards)) == sorted(map(repr, together))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_thin_a_format_to_about_that_many(seed: int) -> None:
    paths = [kept(q, p) for q in range(200) for p in range(5)]
    config = MixConfig(shares={"standard": 0.3, "direct": 0.0}, unique=False)
    counts = dict.fromkeys(FORMATS, 0)
    for example in mix(paths, SHOTS, FORMATS, config, seed):
        counts[example.format] += 1
    assert counts["cot"] == counts["step_by_step"] == 1000
    assert counts["direct"] == 0
    assert 230 <= counts["standard"] <= 370  # 300 +- 4.8 standard deviations


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"formats": ["cots"]}, "did you mean 'cot'"),
        ({"formats": []}, "at least one"),
        ({"formats": ["cot", "cot"]}, "each format once"),
        ({"shares": {"direkt": 0.5}}, "did you mean 'direct'"),
        ({"shares": {"direct": 1.5}}, r"shares.direct=1.5"),
        ({"shares": {"direct": float("nan")}}, "shares.direct=nan"),
        ({"format": ["cot"]}, "did you mean 'formats'"),
    ],
)
def test_bad_settings_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MixConfig.from_dict(values)
