"""``fastsi sample``: reasoning paths of every question into a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastsi.cli import _options
from fastsi.cli._config import build, config_option, merge, set_option
from fastsi.cli._output import output, percent
from fastsi.types import SamplingParams

NAME = "sample"
HELP = "Sample reasoning paths for questions into a Parquet file (paths.parquet's columns)."
TABLES = ("sampling", "prompt", "engine")
DEFAULTS = {"sampling": {"n": 32, "temperature": 0.7, "max_tokens": 256, "seed": 0}}
"""The paper's settings, where they differ from ``SamplingParams``."""


def command(
    context: typer.Context,
    model: _options.Model,
    questions: _options.Questions,
    out_file: Annotated[
        Path,
        typer.Option("--out", help="Parquet file to write; it must not exist.", metavar="FILE"),
    ],
    n: Annotated[
        int | None, typer.Option("--n", "--paths", help="Paths per question.", show_default="32")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0 is greedy.", show_default="0.7")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest path, in tokens.", show_default="256")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the paths' random streams.", show_default="0")
    ] = None,
    stopping: _options.Stopping = None,
    exemplars: _options.Exemplars = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the weights: auto (float32 on a CPU, the checkpoint's on a GPU), "
            "float32, bfloat16 (half the memory) or float16.",
            show_default="auto",
            metavar="TYPE",
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            help="bf16 or int8: linear layers in 16 or 8 bits (CPU).",
            show_default="none",
            metavar="KIND",
        ),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the KV cache: auto (as the weights), float32, bfloat16 or int8 (CPU); "
            "smaller ones hold more tokens.",
            show_default="auto",
            metavar="TYPE",
        ),
    ] = None,
    limit: _options.Limit = None,
    settings: Annotated[list[str] | None, set_option(*TABLES)] = None,
    config: Annotated[Path | None, config_option(*TABLES)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Sample and write; any field of SamplingParams can be set in the table [sampling]."""
    tables = merge(
        context,
        settings or (),
        {
            "sampling.n": n,
            "sampling.temperature": temperature,
            "sampling.max_tokens": max_tokens,
            "sampling.seed": seed,
            "prompt.exemplars": exemplars,
            "engine.dtype": dtype,
            "engine.quantization": quantization,
            "engine.kv_dtype": kv_dtype,
        },
        tables=TABLES,
        defaults=DEFAULTS,
    )
    params = build(context, lambda t: SamplingParams.from_dict(t.get("sampling", {})), tables)

    from fastsi import api
    from fastsi.data.questions import read_questions

    prompt = build(context, lambda t: api.prompt_config(t.get("prompt", {})), tables)
    options = build(context, lambda t: api.engine_options(t.get("engine", {})), tables)
    with output(as_json) as out:
        chosen = read_questions(questions)[:limit]
        result = api.sample(
            model,
            chosen,
            out=out_file,
            sampling=params,
            prompt=prompt,
            options=options,
            stopping=stopping,
        )
        out.line(
            f"{out_file}: {result['questions']} questions, {result['paths']} paths, "
            f"{percent(result['parse_rate'])} % with an answer; {result['tokens']} tokens in "
            f"{result['seconds']['sample']:.1f} s ({result['tokens_per_s']:,.0f} tokens/s)"
        )
        out.record(result)
