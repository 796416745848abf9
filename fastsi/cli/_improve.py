"""``fastsi improve``: label-free rounds on a model and a file of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastsi.cli import _options
from fastsi.cli._config import Tables, build, config_option, merge, set_option
from fastsi.cli._output import Output, output
from fastsi.cli._tables import before_after, rounds_table, seconds_table
from fastsi.errors import ConfigError

if TYPE_CHECKING:
    from fastsi.evaluate import EvaluateConfig
    from fastsi.train.config import ImproveConfig

NAME = "improve"
HELP = "Make a model better on questions without answers: sample, vote, select, fine-tune, repeat."
TABLES = ("prompt", "sample", "select", "mix", "train", "evaluate")
LOOSE = ("extractor", "start_from")


def command(
    context: typer.Context,
    model: _options.Model,
    questions: _options.Questions,
    out_folder: Annotated[
        Path,
        typer.Option(
            "--out", help="Run folder; the same command goes on with it.", metavar="FOLDER"
        ),
    ],
    eval_questions: Annotated[
        Path | None,
        typer.Option(
            help="Held-out questions to evaluate on before and after; JSON lines as --questions.",
            show_default="none",
            metavar="FILE",
        ),
    ] = None,
    gold: Annotated[
        Path | None,
        typer.Option(
            help='Gold answers of the held-out questions, JSON lines {"id", "answer"}.',
            show_default="none",
            metavar="FILE",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds in all.", show_default="1")] = None,
    seed: _options.RunSeed = None,
    paths: _options.Paths = None,
    temperature: _options.Temperature = None,
    max_tokens: _options.MaxTokens = None,
    stopping: _options.Stopping = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps of a round.", show_default="150")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="5e-05")
    ] = None,
    exemplars: _options.Exemplars = None,
    limit: _options.Limit = None,
    eval_limit: Annotated[
        int | None,
        typer.Option(
            help="Use the first N held-out questions only.",
            min=1,
            show_default="all",
            metavar="N",
        ),
    ] = None,
    settings: Annotated[list[str] | None, set_option(*TABLES)] = None,
    config: Annotated[Path | None, config_option(*TABLES, loose=LOOSE)] = None,
    as_json: _options.Json = False,
) -> None:
    """Run the rounds, evaluate before and after if asked to, and write the report."""
    if (eval_questions is None) != (gold is None):
        raise ConfigError("--eval-questions and --gold go together: give both or neither")
    tables = merge(
        context,
        settings or (),
        {
            "rounds": rounds,
            "seed": seed,
            "sample.paths": paths,
            "sample.temperature": temperature,
            "sample.max_tokens": max_tokens,
            "sample.stopping": stopping,
            "train.steps": steps,
            "train.learning_rate": learning_rate,
            "prompt.exemplars": exemplars,
        },
        tables=TABLES,
    )
    improving, evaluating = build(context, configs, tables)

    from fastsi import api
    from fastsi.data.questions import read_questions
    from fastsi.evaluate import Problems

    with output(as_json) as out:
        problems = None
        if eval_questions is not None and gold is not None:
            problems = Problems.read(
                eval_questions,
                gold,
                limit=eval_limit,
                prompt=improving.prompt,
                config=evaluating,
            )
        chosen = read_questions(questions)[:limit]
        result = api.improve(model, chosen, out_folder, config=improving, problems=problems)
        show(out, result)


def configs(tables: Tables) -> tuple[ImproveConfig, EvaluateConfig]:
    """The settings of rounds and of evaluations.

    Evaluations sample as the rounds do, except where the table [evaluate] says otherwise.

    Raises:
        ConfigError: unknown name or bad value.
    """
    from fastsi.evaluate import EvaluateConfig
    from fastsi.train.config import ImproveConfig

    rest: dict[str, Any] = {name: table for name, table in tables.items() if name}
    evaluate = rest.pop("evaluate", {})
    improving = ImproveConfig.from_dict(rest | tables.get("", {}))
    shared = ("paths", "temperature", "top_p", "max_tokens")
    same = {name: getattr(improving.sample, name) for name in shared}
    same |= {"extractor": improving.extractor, "seed": improving.seed}
    return improving, EvaluateConfig.from_dict(same | evaluate)


def show(out: Output, result: dict[str, Any]) -> None:
    """Write the report and print what a run came to."""
    from fastsi.cli import report

    result["report"] = report.write_if_possible(Path(result["folder"]), out.note)
    out.table(rounds_table(result["rounds"]))
    if "before" in result:
        out.table(before_after(result["before"], result["after"], result["change"]))
    out.table(seconds_table(result["seconds"]))
    out.line(f"model:  {result['checkpoint']}")
    if result["report"]:
        out.line(f"report: {result['report']}")
    out.record(result)
