"""``fastsi vote``: majority votes over the paths in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fastsi.cli._config import config_option
from fastsi.cli._output import output, percent
from fastsi.types import Vote

NAME = "vote"
HELP = "Vote on the answers of paths that are already in a file (JSON lines or Parquet)."


def command(
    paths: Annotated[
        Path,
        typer.Argument(help="File of paths, one row each: .jsonl or .parquet.", metavar="FILE"),
    ],
    text_field: Annotated[str, typer.Option(help="Column with a path's text.")] = "text",
    group_field: Annotated[
        str, typer.Option(help="Column that names the question a path answers.")
    ] = "question_id",
    logprob_field: Annotated[
        str,
        typer.Option(
            help="Column with a path's summed log-probability (nats), which settles ties; "
            "used where the file has it."
        ),
    ] = "cumulative_logprob",
    extractor: Annotated[
        str, typer.Option(help="How the answer is found in a text; a bad name lists them.")
    ] = "auto",
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Parquet file for the votes; it must not exist.",
            show_default="none",
            metavar="FILE",
        ),
    ] = None,
    show: Annotated[int, typer.Option(help="Questions in the printed table.", min=0)] = 20,
    config: Annotated[Path | None, config_option()] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Vote per question and print winners, shares and ties."""
    from fastsi import api

    with output(as_json) as out:
        votes = api.vote(
            paths,
            text_field=text_field,
            group_field=group_field,
            logprob_field=logprob_field,
            extractor=extractor,
            out=out_file,
        )
        count = len(votes)
        summary = {
            "questions": count,
            "paths": sum(vote.n for vote in votes.values()),
            "consistency": sum(vote.share for vote in votes.values()) / count,
            "parse_rate": sum(v.votes for v in votes.values()) / sum(v.n for v in votes.values()),
            "ties": sum(vote.tie for vote in votes.values()),
            "undecided": sum(vote.winner is None for vote in votes.values()),
        }
        out.table(_table(votes, show))
        out.line(
            f"{count} questions, {summary['paths']} paths: consistency "
            f"{percent(summary['consistency'])} %, parsed {percent(summary['parse_rate'])} %, "
            f"{summary['ties']} ties, {summary['undecided']} without an answer"
        )
        out.record(summary | {"votes": {name: api.vote_record(v) for name, v in votes.items()}})


def _table(votes: dict[str, Vote], show: int) -> Table:
    hidden = max(0, len(votes) - show)
    table = Table(
        title="votes", title_justify="left", caption=f"{hidden} more questions" if hidden else None
    )
    for heading in ("question", "winner", "share %", "votes", "runner-up"):
        table.add_column(heading, justify="right" if "%" in heading else "left", overflow="fold")
    for name, vote in list(votes.items())[:show]:
        others = [f"{key} x{n}" for key, n in vote.counts.items() if key != vote.winner]
        table.add_row(
            name,
            vote.winner or "-",
            percent(vote.share),
            f"{vote.counts.get(vote.winner or '', 0)}/{vote.n}",
            (others[0] if others else "-") + (" (tie)" if vote.tie else ""),
        )
    return table
