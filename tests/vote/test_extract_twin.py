"""Extraction in C++ against its definition in Python, on random and mutated responses."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from fastsi import _ext
from fastsi.errors import ConfigError
from fastsi.types import EXTRACTORS, RUN_ON_MARKS
from fastsi.vote import answer_key, answer_keys, marks
from fastsi.vote.extract import reference_answer_key
from tests.support.responses import response

RUN_ONS = (RUN_ON_MARKS, ("Exercise", "#Q", "* Next"), ())


def in_cpp(text: str, extractor: str, last_number: bool, run_on: tuple[str, ...]) -> object:
    core = _ext.core()
    options = core.ExtractOptions(EXTRACTORS.index(extractor), last_number, list(run_on))
    return core.answer_key(text, options)


def assert_twins_agree(
    text: str, extractor: str, last_number: bool, run_on: tuple[str, ...]
) -> bool:
    """Whether C++ decided; what it says must be the definition's."""
    key = in_cpp(text, extractor, last_number, run_on)
    if key is NotImplemented:
        return False
    wanted = reference_answer_key(text, extractor=extractor, last_number=last_number, run_on=run_on)
    assert key == wanted, (text, extractor, last_number, run_on)
    return True


@pytest.mark.parametrize("seed", range(4))
def test_random_responses(seed: int) -> None:
    rng = random.Random(seed)
    decided = 0
    for _ in range(4000):
        extractor = "auto" if rng.random() < 0.5 else rng.choice(EXTRACTORS)
        run_on = RUN_ONS[0] if rng.random() < 0.7 else rng.choice(RUN_ONS)
        decided += assert_twins_agree(response(rng), extractor, rng.random() < 0.2, run_on)
    assert decided > 1000


@pytest.mark.parametrize("link", [": ", ":\u00a0**", "\uff1a", " ", " ** :", "**:**"])
def test_every_mark_in_another_language(link: str) -> None:
    for word in (*marks.WITH_COLON, *marks.WITHOUT_COLON):
        for form in (word, word[0].swapcase() + word[1:], word[:-1]):
            for answer in ("18", "18\u5143", "(B)", "5\u6642 30\u5206", "2\u03c0", "\u0628"):
                assert_twins_agree(f"Well. {form}{link}{answer}\u3002 So.", "auto", False, ())
    assert answer_key("Antwort: 18") == answer_key("antwort ist 18") == "num:18"


def test_every_denial_and_remark() -> None:
    for word in (*marks._DENIALS, *marks._REMARKS):
        for clause in (word, word.upper(), f"{word} so", f"{word}s", f"{word}-5"):
            text = f"The answer is 18. I say the answer is {clause}."
            assert_twins_agree(text, "auto", False, ())
        assert answer_key(f"The answer is 18. Later: the answer is {word}.") == "num:18"


@pytest.mark.parametrize("text", ["\ud800 The answer is 5.", "The answer is 5.\udfff"])
def test_lone_surrogates_are_read_by_the_definition(text: str) -> None:
    assert in_cpp(text, "auto", False, ()) is NotImplemented
    assert answer_key(text) == reference_answer_key(text)
    assert answer_keys([text, "The answer is 6."])[1] == "num:6"


@pytest.mark.parametrize("threads", [1, 3, None])
def test_many_texts_at_once(threads: int | None) -> None:
    rng = random.Random(9)
    texts = [response(rng) for _ in range(500)]
    for extractor in ("auto", "choice"):
        wanted = [reference_answer_key(text, extractor=extractor) for text in texts]
        assert answer_keys(texts, extractor=extractor, threads=threads) == wanted
    assert answer_keys([], threads=threads) == []


def test_arguments_are_checked() -> None:
    for read in (answer_key, lambda text, **options: answer_keys([text], **options)):
        with pytest.raises(ConfigError, match=r"'boxd'.*'boxed'"):
            read("5", extractor="boxd")
        with pytest.raises(ConfigError, match="run_on: holds an empty word"):
            read("5", run_on=("Q", ""))


UNITS = [
    *("{", "}", "$", "<", "#", "####", "\\", "\\boxed{", "\\boxed{}", "\\boxed "),
    *("answer is ", "answer, ", "Answer:\n", "The answer is not 5. ", "answer (", "answer to the "),
    *("<answer>", "</answer>", "<answer></answer>", "<answer>5 ", "#### \n", "#### a\n", "\n#### "),
    *("correct option ", "the best choice is ", "\u7b54", "\u7b54\u6848\u662f", "Antwort"),
    *("Q", "Q:", " #Q", "\nQuestion", "**Problem 12", "(A)", "**B**", "1,", "-$1/", "."),
    *("</think>", "?\"", " ", "w", "\\fbox{\\boxed{}}"),
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_length_alone(unit: str) -> None:
    """8 MB take 0.1 to 0.4 s; a search from every unit to the end takes 35 s to 12 minutes."""
    text = unit * (8_000_000 // len(unit.encode()))
    for extractor in ("auto", "choice", "last_number"):
        start = time.process_time()
        in_cpp(text, extractor, True, RUN_ON_MARKS)
        assert time.process_time() - start < 15, extractor


def test_voting_loads_no_torch() -> None:
    script = (
        "import sys, fastsi.vote\n"
        "assert fastsi.vote.vote(['The answer is 5.'] * 9).winner == 'num:5'\n"
        "found = {'torch', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True, timeout=600)
