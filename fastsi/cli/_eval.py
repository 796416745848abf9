"""``fastsi eval``: a model, or a model before and after, against gold answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastsi.cli import _options
from fastsi.cli._config import build, config_option, merge, set_option
from fastsi.cli._improve import configs
from fastsi.cli._output import output
from fastsi.cli._tables import before_after, calibration_table, one_evaluation, seconds_table
from fastsi.errors import ConfigError

NAME = "eval"
HELP = "Evaluate a model, or a model before and after, against gold answers."
TABLES = ("prompt", "evaluate")


def command(
    context: typer.Context,
    model: _options.Model,
    questions: _options.Questions,
    gold: _options.Gold,
    after: Annotated[
        str | None,
        typer.Option(
            help="A second model, compared with the first on the same problems.",
            show_default="none",
            metavar="MODEL",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of `fastsi improve`: compare --model, its base, with its last round; "
            "prompts and sampling default to the run's, results are kept in its evaluation/.",
            show_default="none",
            metavar="FOLDER",
        ),
    ] = None,
    paths: _options.Paths = None,
    temperature: _options.Temperature = None,
    max_tokens: _options.MaxTokens = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the sampled paths.", show_default="0")
    ] = None,
    pass_at: Annotated[
        list[int] | None,
        typer.Option(help="Also print pass@K; repeat for more.", show_default="none", metavar="K"),
    ] = None,
    exemplars: _options.Exemplars = None,
    limit: _options.Limit = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder to keep responses and scores in; what it has is not evaluated again.",
            show_default="none, or the run's",
            metavar="FOLDER",
        ),
    ] = None,
    settings: Annotated[list[str] | None, set_option(*TABLES)] = None,
    config: Annotated[Path | None, config_option(*TABLES)] = None,
    as_json: _options.Json = False,
) -> None:
    """Evaluate and print accuracies with intervals, consistency and calibration."""
    if run is not None and after is not None:
        raise ConfigError("--run and --after: give one of them")
    from fastsi import api
    from fastsi.cli._runs import read_run
    from fastsi.evaluate import Problems

    past = read_run(run) if run is not None else None
    tables = merge(
        context,
        settings or (),
        {
            "evaluate.paths": paths,
            "evaluate.temperature": temperature,
            "evaluate.max_tokens": max_tokens,
            "evaluate.seed": seed,
            "prompt.exemplars": exemplars,
        },
        tables=TABLES,
        defaults=past.tables() if past is not None else None,
    )
    improving, evaluating = build(context, configs, tables)
    for k in pass_at or ():
        if not 1 <= k <= evaluating.paths:
            raise ConfigError(f"--pass-at {k}: must be in 1..{evaluating.paths}, the paths sampled")
    with output(as_json) as out:
        problems = Problems.read(
            questions, gold, limit=limit, prompt=improving.prompt, config=evaluating
        )
        second: str | Path | None = after
        if past is not None:
            out_folder = out_folder or past.folder / api.EVALUATION
            second = past.checkpoint
        name = "evaluation" if second is None else "before"
        first = api.evaluate_model(
            model,
            problems,
            folder=out_folder,
            name=name,
            weights=past.base if past is not None else None,
        )
        seconds = {f"evaluate_{name}" if second else "evaluate": first.seconds}
        if second is None:
            evaluation = first.summary(pass_at or ()).to_json()
            result: dict[str, Any] = {"evaluation": evaluation}
            out.table(one_evaluation(evaluation))
            out.table(calibration_table(evaluation, "calibration"))
        else:
            other = api.evaluate_model(second, problems, folder=out_folder, name="after")
            seconds["evaluate_after"] = other.seconds
            result = api.comparison(first, other, pass_at or ())
            out.table(before_after(result["before"], result["after"], result["change"]))
            for each in ("before", "after"):
                out.table(calibration_table(result[each], f"calibration {each}"))
        out.table(seconds_table(seconds))
        out.record(result | {"seconds": seconds})
