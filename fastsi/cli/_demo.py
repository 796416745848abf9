"""``fastsi demo``: one label-free round on the bundled base model, from questions to report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastsi.cli import _options
from fastsi.cli._config import build, config_option, merge, set_option
from fastsi.cli._improve import LOOSE, TABLES, configs, show
from fastsi.cli._output import output

NAME = "demo"
HELP = "Run one whole label-free round on the bundled base model and show what it gained."
DEFAULTS: dict[str, dict[str, Any]] = {
    "sample": {"paths": 32, "temperature": 1.0, "max_tokens": 96},
    "train": {"steps": 200, "learning_rate": 3e-4},
}
"""Settings for the bundled model, where they differ from those of `fastsi improve`."""


def command(
    context: typer.Context,
    seed: Annotated[
        int, typer.Option(help="Seed of the problems, of sampling and of training.")
    ] = 0,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for data, run and report; the same command goes on with it.",
            show_default="runs/demo, or runs/demo-seed-N for other seeds",
            metavar="FOLDER",
        ),
    ] = None,
    questions: Annotated[
        int, typer.Option(help="Questions to learn from, without answers.", min=1)
    ] = 1500,
    eval_problems: Annotated[
        int, typer.Option(help="Held-out problems to evaluate on.", min=1)
    ] = 500,
    paths: Annotated[
        int | None, typer.Option(help="Paths per question to learn from.", show_default="32")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", show_default="200")] = None,
    settings: Annotated[list[str] | None, set_option(*TABLES)] = None,
    config: Annotated[Path | None, config_option(*TABLES, loose=LOOSE)] = None,
    as_json: _options.Json = False,
) -> None:
    """Write problems, evaluate the base, run a round, evaluate again, write the report."""
    folder = out_folder or Path("runs") / ("demo" if seed == 0 else f"demo-seed-{seed}")
    tables = merge(
        context,
        settings or (),
        {"seed": seed, "sample.paths": paths, "train.steps": steps},
        tables=TABLES,
        defaults=DEFAULTS,
    )
    improving, evaluating = build(context, configs, tables)

    from fastsi import api
    from fastsi.data.questions import read_questions
    from fastsi.evaluate import Problems

    with output(as_json) as out:
        files = write_problems(
            folder / "data", questions=questions, problems=eval_problems, seed=seed
        )
        out.note(f"demo: {questions} questions without answers, {eval_problems} held-out problems")
        problems = Problems.read(
            files["evaluate"], files["gold"], prompt=improving.prompt, config=evaluating
        )
        result = api.improve(
            api.BUILTIN,
            read_questions(files["improve"]),
            folder / "run",
            config=improving,
            problems=problems,
        )
        show(out, result)


def write_problems(
    folder: str | Path, *, questions: int, problems: int, seed: int
) -> dict[str, Path]:
    """Write the demo's data: questions to learn from, held-out questions, their gold answers.

    The two sets of questions come from disjoint splits (``fastsi.data.stories``).

    Args:
        folder: where to write; refused if it has problems of other arguments.
        questions: how many to learn from.
        problems: how many to evaluate on.
        seed: of the generator.

    Returns:
        The files by name: ``improve``, ``evaluate``, ``gold``.

    Raises:
        ArtifactError: the folder is of another demo, or cannot be written.
    """
    from fastsi.data import stories
    from fastsi.data.manifest import Manifest, atomic_write

    identity = {"questions": questions, "problems": problems, "seed": seed}
    with Manifest(folder, identity) as manifest:
        names = {name: f"{name}.jsonl" for name in ("improve", "evaluate", "gold")}
        if not all(manifest.finished(name) for name in names.values()):
            held_out = stories.make_problems("evaluate", problems, seed)
            learned = stories.make_problems("improve", questions, seed)
            with atomic_write(manifest.path(names["improve"])) as temporary:
                stories.write_questions(temporary, learned)
            with atomic_write(manifest.path(names["evaluate"])) as temporary:
                stories.write_questions(temporary, held_out)
            with atomic_write(manifest.path(names["gold"])) as temporary:
                stories.write_gold(temporary, held_out)
            for name in names.values():
                manifest.record(name)
        return {name: manifest.path(file) for name, file in names.items()}
