"""Training cannot see gold answers: not by import, not by file, not by field."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastsi.data.questions import read_questions
from fastsi.errors import DataError

IMPORT_ALL = """
import importlib, pkgutil, sys
import fastsi.train, fastsi.data
for package in (fastsi.train, fastsi.data):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print("\\n".join(sorted(name for name in sys.modules if name.startswith("fastsi"))))
"""

ROUND_UNDER_WATCH = """
import pathlib, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
sys.path.append(sys.argv[2])  # last: the checkout's fastsi/ must not hide the installed one
from tests.support.standin import ScriptedSampler, questions
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_model
from fastsi.data.questions import read_questions, write_questions
from fastsi.train import ImproveConfig, run_rounds
folder = pathlib.Path(sys.argv[1])
write_questions(folder / "questions.jsonl", questions(4))
config = ImproveConfig.from_dict({"sample": {"paths": 4}, "train": {"steps": 1, "batch_size": 2}})
llm = ScriptedSampler(make_model("llama", 3, vocab_size=BYTE_VOCAB), byte_tokenizer())
run_rounds(llm, config, read_questions(folder / "questions.jsonl"), folder / "run", False)
print("\\n".join(name for name in opened if name.startswith(str(folder))))
"""


def output_of(code: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_no_module_of_train_or_data_brings_evaluation_with_it() -> None:
    loaded = output_of(IMPORT_ALL)
    assert "fastsi.train.rounds" in loaded
    assert [name for name in loaded if name.startswith("fastsi.evaluate")] == []


def test_a_round_opens_questions_and_its_own_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text('{"id": "q0", "answer": "8"}\n')
    root = str(Path(__file__).resolve().parents[2])
    opened = {Path(name) for name in output_of(ROUND_UNDER_WATCH, str(tmp_path), root)}
    assert tmp_path / "questions.jsonl" in opened
    run = tmp_path / "run"
    elsewhere = {p.name for p in opened if run not in p.parents and p not in (run, tmp_path)}
    written = {name for name in elsewhere if name.startswith(".questions.jsonl.")}
    assert elsewhere - written == {"questions.jsonl"}


def test_gold_beside_a_question_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "a", "question": "What is 1 + 1?", "answer": "2"}\n')
    with pytest.raises(DataError, match="holds no answers"):
        read_questions(path)
