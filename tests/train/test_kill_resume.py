"""A real run, killed with SIGKILL at random moments, ends as if it had not been.

The work is benchmarks/train/kill_resume.py, which does the same by hand with more kills; here it
runs on the real engine and a tiny model that was taught to state answers.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from fastsi.train import TrainConfig
from fastsi.train.batches import encode
from fastsi.train.checkpoint import save_checkpoint
from fastsi.train.trainer import fine_tune
from tests.support.tiny_models import BYTE_VOCAB, byte_tokenizer, make_config, make_model

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train" / "kill_resume.py"
SEED = 20261123
SIZES = {"questions": 16, "paths": 12, "steps": 16, "rounds": 2}


def answering_model(folder: Path) -> Path:
    """A model that ends any prompt with "The answer is N.", N one of ten."""
    config = make_config("llama", 3, vocab_size=BYTE_VOCAB)
    config.max_position_embeddings = 1024
    model, tokenizer = make_model("llama", 3, config=config), byte_tokenizer()
    examples = [
        encode(
            tokenizer,
            f"Q: {'How many? ' * length}\nA:",
            f" The answer is {number}.",
            "cot",
            add_special_tokens=True,
        )
        for number in range(10)
        for length in (1, 4, 10, 16)
    ]
    settings = TrainConfig(steps=80, batch_size=16, learning_rate=1e-2, warmup_steps=5)
    log = fine_tune(model, examples, settings, 0)
    assert log.losses[-1] < 0.25, "the tests need a model that states answers"
    save_checkpoint(model, tokenizer, folder)
    return folder


@pytest.fixture(name="killed", scope="module")
def _killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder with the runs, and what the script says of them."""
    folder = tmp_path_factory.mktemp("kills")
    command = [sys.executable, str(SCRIPT), "--kills", "4", "--seed", str(SEED)]
    command += ["--model", str(answering_model(folder / "model")), "--work", str(folder / "runs")]
    command += [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1800, check=False, cwd=folder
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return folder / "runs", json.loads(done.stdout.rstrip().splitlines()[-1])


def test_a_killed_run_ends_as_if_it_had_not_been(killed: tuple[Path, dict[str, Any]]) -> None:
    _, outcome = killed
    assert outcome["equal"]
    assert outcome["seed"] == SEED
    assert outcome["kills"] == sum(outcome["hits"].values()) == 4
    assert outcome["runs"] >= 1


def lose_a_path(folder: Path) -> None:
    table = pq.read_table(folder / "paths.parquet")
    pq.write_table(table.slice(1), folder / "paths.parquet")


def repeat_a_path(folder: Path) -> None:
    table = pq.read_table(folder / "paths.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), folder / "paths.parquet")


def change_a_vote(folder: Path) -> None:
    rows = pq.read_table(folder / "votes.parquet").to_pylist()
    rows[3]["winner"] = "num:99"
    schema = pq.read_schema(folder / "votes.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "votes.parquet")


def shift_a_weight(folder: Path) -> None:
    path = folder / "checkpoint" / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, path)


def leave_a_partial_file(folder: Path) -> None:
    (folder / ".paths.parquet.0.partial").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lose_a_path, "paths were lost"),
        (repeat_a_path, "paths were duplicated"),
        (change_a_vote, "votes.parquet differs"),
        (shift_a_weight, "weights differ"),
        (leave_a_partial_file, "files differ"),
    ],
)
def test_the_comparison_notices(
    killed: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    tamper: Callable[[Path], None],
    words: str,
) -> None:
    runs, _ = killed
    compare = runpy.run_path(str(SCRIPT))["compare"]
    args = argparse.Namespace(**SIZES, tolerance=1e-5)
    compare(runs / "killed-0", runs / "uninterrupted", args)
    shutil.copytree(runs / "killed-0", tmp_path / "run")
    tamper(tmp_path / "run" / "round-2")
    with pytest.raises(AssertionError, match=words):
        compare(tmp_path / "run", runs / "uninterrupted", args)
