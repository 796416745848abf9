"""The four formats, letter by letter, and the boundary between prompt and target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import fastsi.data.templates as templates
from fastsi.data.templates import (
    FORMATS,
    REASONED,
    Exemplar,
    PromptConfig,
    Template,
    answer_sentence,
    load_exemplars,
)
from fastsi.errors import ConfigError, DataError
from fastsi.vote import answer_key, key_of_answer
from fastsi.vote.equations import equations
from tests.support.tiny_models import byte_tokenizer

BASE = Path(templates.__file__).parents[1] / "assets" / "base"
ONE = Exemplar(question="What is 1 + 2?", rationale="1 + 2 = 3.", answer="3")
TWO = Exemplar(question="Is 4 even?", rationale="4 = 2 * 2.", answer="yes")


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        (
            "cot",
            "Q: What is 1 + 2?\nA: 1 + 2 = 3. The answer is 3.\n\n"
            "Q: Is 4 even?\nA: 4 = 2 * 2. The answer is yes.\n\nQ: Why?\nA:",
        ),
        (
            "standard",
            "Q: What is 1 + 2?\nA: The answer is 3.\n\n"
            "Q: Is 4 even?\nA: The answer is yes.\n\nQ: Why?\nA:",
        ),
        ("step_by_step", "Q: Why?\nA: Let's think step by step."),
        ("direct", "Q: Why?\nA:"),
    ],
)
def test_plain_prompts_are_those_of_the_paper(format: Any, expected: str) -> None:
    assert Template(exemplars=(ONE, TWO)).prompt("Why?", format) == expected


def test_chat_prompts_put_exemplars_into_turns() -> None:
    template = Template(exemplars=(ONE,), tokenizer=byte_tokenizer())
    shown = "<user>What is 1 + 2?\n<assistant>1 + 2 = 3. The answer is 3.\n"
    assert template.prompt("Why?", "cot") == shown + "<user>Why?\n<assistant>"
    assert template.prompt("Why?", "direct") == "<user>Why?\n<assistant>"
    asked = "<user>Why?\nLet's think step by step.\n<assistant>"
    assert template.prompt("Why?", "step_by_step") == asked
    assert template.target("  Because. ") == "Because."
    assert not template.adds_special_tokens


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="'few_shot'"):
        Template().prompt("Why?", "few_shot")  # type: ignore[arg-type]


@pytest.mark.parametrize("tokenizer", ["bytes", "base"])
@pytest.mark.parametrize("format", FORMATS)
def test_prompt_tokens_begin_the_tokens_of_prompt_and_target(tokenizer: str, format: Any) -> None:
    coder = byte_tokenizer() if tokenizer == "bytes" else AutoTokenizer.from_pretrained(BASE)
    template = Template(exemplars=load_exemplars("builtin"))
    for question in ("How many apples are left?", "12", "Is it (a) or (b)?"):
        prompt = template.prompt(question, format)
        assert not prompt.endswith(" ")
        for text in (" 3 + 4 = 7. The answer is 7.", "Anna has 5.", "\n9", " (b)"):
            start = coder(prompt)["input_ids"]
            whole = coder(prompt + template.target(text))["input_ids"]
            assert whole[: len(start)] == start
            assert len(whole) > len(start)


def test_a_blank_line_stops_a_path_only_where_it_separates_questions() -> None:
    assert Template(exemplars=(ONE,)).stop("cot") == ("\nQ:", "\n\n")
    assert Template(exemplars=(ONE,)).stop("step_by_step") == ("\nQ:",)
    assert Template().stop("cot") == ("\nQ:",)
    assert Template(tokenizer=byte_tokenizer()).stop("cot") == ()


def test_builtin_exemplars_are_right() -> None:
    exemplars = load_exemplars("builtin")
    assert len(exemplars) == 6
    assert len({e.question for e in exemplars}) == 6
    for exemplar in exemplars:
        stated = equations(exemplar.rationale)
        assert stated, exemplar
        assert all(equation.true for equation in stated), exemplar
        right = key_of_answer(exemplar.answer)
        assert answer_key(exemplar.response(reasoned=True)) == right
        assert answer_key(exemplar.response(reasoned=False)) == right
        assert exemplar.response(reasoned=False) == f"The answer is {exemplar.answer}."
        assert stated[-1].text.endswith(f"={exemplar.answer}")


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (" 2 + 2 = 4. The answer is 4.", "4", "The answer is 4."),
        (" So the answer is not known. The answer is (b).\n", "(B)", "The answer is (b)."),
        (" The answer is 3. No: The answer is 4.", "4", "The answer is 4."),
        (" #### 4", "4", "The answer is 4."),
        (" The answer is", "4", "The answer is 4."),
    ],
)
def test_answer_sentences_keep_the_writing_of_the_path(
    text: str, answer: str, expected: str
) -> None:
    assert answer_sentence(text, answer) == expected


def test_exemplars_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shots.jsonl"
    rows = [
        {"question": e.question, "rationale": e.rationale, "answer": e.answer} for e in (ONE, TWO)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = PromptConfig(exemplars=str(path))
    assert Template.from_config(config, byte_tokenizer()).exemplars == (ONE, TWO)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no exemplars"),
        ('{"question": "q", "answer": "1"}', "shots.jsonl:1: field 'rationale': missing"),
        ('{"question": "q", "rationale": "", "answer": "1"}', "must not be empty"),
    ],
)
def test_faulty_exemplars_are_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "shots.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        load_exemplars(path)


def test_chat_style_needs_a_chat_template() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        Template.from_config(PromptConfig(style="chat"), tokenizer)


@pytest.mark.parametrize(
    "values",
    [{"style": "xml"}, {"exemplars": ""}, {"sample_format": "direct"}, {"sample_format": "few"}],
)
def test_bad_prompt_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        PromptConfig(**values)


def test_reasoned_formats_are_those_whose_target_is_a_path() -> None:
    assert {"cot", "step_by_step"} == REASONED
