"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        help="Model folder, hub id, or .gguf file; 'builtin' is the bundled base model.",
        metavar="MODEL",
    ),
]
Questions = Annotated[
    Path,
    typer.Option(help='Questions, JSON lines {"id", "question"}.', metavar="FILE"),
]
Gold = Annotated[
    Path,
    typer.Option(help='Gold answers, JSON lines {"id", "answer"}.', metavar="FILE"),
]
Exemplars = Annotated[
    str | None,
    typer.Option(
        help="Worked examples before each question: none, builtin, or a file of JSON lines "
        '{"question", "rationale", "answer"}.',
        show_default="none",
        metavar="NAME|FILE",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Use the first N questions only.", min=1, show_default="all", metavar="N"),
]
Paths = Annotated[int | None, typer.Option(help="Paths per question.", show_default="32")]
Temperature = Annotated[
    float | None, typer.Option(help="Sampling temperature.", show_default="0.7")
]
MaxTokens = Annotated[int | None, typer.Option(help="Longest path, in tokens.", show_default="256")]
RunSeed = Annotated[
    int | None,
    typer.Option(help="Seed of sampling, mixing and training.", show_default="0"),
]
Stopping = Annotated[
    str | None,
    typer.Option(
        help="When a question needs no more paths: exact (the leader cannot be overtaken), "
        "beta:0.95 (posterior of the leader), window:5 (the last five agree), or none.",
        show_default="none",
        metavar="RULE",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
