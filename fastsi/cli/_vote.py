"""``fastsi vote``: majority votes over the paths in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
        str | None,
        typer.Option(
            help="Column with a path's summed log-probability (nats), or with a list of its "
            "tokens'; settles ties, and weighs paths; used where the file has it.",
            show_default="cumulative_logprob; token_logprobs for window:W",
        ),
    ] = None,
    length_field: Annotated[
        str,
        typer.Option(
            help="Column with a path's number of tokens, for logprob_mean and cisc:T where "
            "log-probabilities are sums."
        ),
    ] = "num_tokens",
    weights: Annotated[
        str,
        typer.Option(
            help="How much a path's vote weighs: uniform, logprob_sum, logprob_mean, cisc:T "
            "(temperature T), or window:W (least confident W tokens)."
        ),
    ] = "uniform",
    extractor: Annotated[
        str, typer.Option(help="How the answer is found in a text; a bad name lists them.")
    ] = "auto",
    symbolic: Annotated[
        bool,
        typer.Option(
            "--symbolic",
            help="Merge opaque answers that algebra proves equal, such as roots and polynomials; "
            "needs the extra fastsi[symbolic].",
        ),
    ] = False,
    stopping: Annotated[
        str | None,
        typer.Option(
            help="Replay a stopping rule on each question's paths, in the file's order: exact, "
            "beta:0.95 or window:5; later paths do not count.",
            show_default="none",
            metavar="RULE",
        ),
    ] = None,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File for the votes, .parquet or .jsonl; it must not exist.",
            show_default="none",
            metavar="FILE",
        ),
    ] = None,
    show: Annotated[int, typer.Option(help="Questions in the printed table.", min=0)] = 20,
    config: Annotated[Path | None, config_option()] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Vote per question and print winners, shares and ties."""
    # Not through fastsi.api: a vote needs no torch, and answers before torch would be loaded.
    from fastsi import vote_files
    from fastsi.train.progress import Reporter

    with output(as_json) as out:
        with Reporter().phase("vote", vote_files.count_rows(paths)) as advance:
            votes = vote_files.vote_file(
                paths,
                text_field=text_field,
                group_field=group_field,
                logprob_field=logprob_field,
                length_field=length_field,
                weights=weights,
                extractor=extractor,
                symbolic=symbolic,
                stopping=stopping,
                out=out_file,
                advance=lambda rows: advance(rows, ""),
            )
        summary = _summary(votes)
        out.table(_table(votes, show))
        out.line(
            f"{summary['questions']} questions, {summary['paths']} paths: consistency "
            f"{percent(summary['consistency'])} %, parsed {percent(summary['parse_rate'])} %, "
            f"{summary['ties']} ties, {summary['undecided']} without an answer"
        )
        told = {name: vote_files.vote_record(vote) for name, vote in votes.items()}
        out.record(summary | {"weights": weights, "votes": told})


def _summary(votes: dict[str, Vote]) -> dict[str, Any]:
    paths = sum(vote.n for vote in votes.values())
    return {
        "questions": len(votes),
        "paths": paths,
        "consistency": sum(vote.share for vote in votes.values()) / len(votes),
        "parse_rate": sum(vote.votes for vote in votes.values()) / paths,
        "ties": sum(vote.tie for vote in votes.values()),
        "undecided": sum(vote.winner is None for vote in votes.values()),
    }


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
