"""The command line in this process: what it printed, and how it ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers

from fastsi import api
from fastsi.cli.__main__ import main
from tests.cli.scripted import SETTINGS, LearningSampler, write_inputs
from tests.support import small_disk as disks
from tests.support.tiny_models import save_model


@dataclass(frozen=True, slots=True)
class Ended:
    """One finished command."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object that standard output must hold."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out
        record = json.loads(self.out)
        assert isinstance(record, dict)
        return record

    def refusal(self) -> str:
        """The one line of a refusal."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run one command line."""
    # The command does this for itself through the environment, which transformers reads on import.
    transformers.utils.logging.disable_progress_bar()

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        return Ended(code, printed.out, printed.err)

    return run


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[LearningSampler]:
    """Every model name loads a new `LearningSampler`; the list holds those loaded."""
    loaded: list[LearningSampler] = []

    def load(model: object, **options: object) -> object:
        if isinstance(model, LearningSampler):
            return model
        loaded.append(LearningSampler())
        return loaded[-1]

    monkeypatch.setattr(api, "load_model", load)
    return loaded


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model whose context is 512 tokens."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Questions, held-out questions and gold answers."""
    return write_inputs(tmp_path / "data")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with evaluations before and after; copy it before changing it."""
    from fastsi.data.questions import read_questions
    from fastsi.evaluate import EvaluateConfig, Problems
    from fastsi.train.config import ImproveConfig

    folder = tmp_path_factory.mktemp("finished")
    files = write_inputs(folder / "data")
    problems = Problems.read(files["held-out"], files["gold"], config=EvaluateConfig(paths=6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "load_model", lambda model: model)
        api.improve(
            LearningSampler(),  # type: ignore[arg-type]
            read_questions(files["questions"]),
            folder / "run",
            config=ImproveConfig.from_dict(SETTINGS),
            problems=problems,
            progress=False,
        )
    return folder / "run"


@pytest.fixture
def run_folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(finished_run, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 KiB; skips where mounting is not permitted."""
    with disks.small_disk(tmp_path / "small-disk", 20) as disk:
        yield disk
