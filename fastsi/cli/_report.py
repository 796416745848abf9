"""``fastsi report``: the HTML page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastsi.cli import _options
from fastsi.cli._output import output

NAME = "report"
HELP = "Write a run's report: one HTML file with figures, tables and examples."


def command(
    run: Annotated[
        Path, typer.Argument(help="Run folder of `fastsi improve` or `demo`.", metavar="RUN")
    ],
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out", help="HTML file to write.", show_default="RUN/report.html", metavar="FILE"
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(help="Example questions to show, with their paths and votes.", min=0)
    ] = 6,
    as_json: _options.Json = False,
) -> None:
    """Write the report and print its path."""
    from fastsi.cli import report

    with output(as_json) as out:
        path = report.write(run, out_file, examples=examples)
        out.line(str(path))
        out.record({"report": str(path)})
