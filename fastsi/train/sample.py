"""The sampling phase: paths of all questions, in shards that survive a kill.

Each shard of questions is one call of the engine, with a seed of its own and an empty prefix cache,
and ends in one part file. So a shard sampled after a resume is computed as it would have been
without the kill, and what was finished is not sampled again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastsi.data.manifest import Manifest
from fastsi.data.templates import Template
from fastsi.train.config import RoundConfig
from fastsi.train.progress import Reporter
from fastsi.train.sampler import Sampler, check_lengths, context_length, encode_prompt, stream
from fastsi.train.tables import PATHS, join_tables, write_table
from fastsi.types import Question, RequestOutput
from fastsi.vote import answer_keys, parse_rule
from fastsi.vote.stopping import controllers


def sample_paths(
    llm: Sampler,
    questions: Sequence[Question],
    template: Template,
    config: RoundConfig,
    round_index: int,
    manifest: Manifest,
    name: str,
    reporter: Reporter,
    inputs: Sequence[str] = (),
) -> None:
    """Sample ``config.sample.paths`` paths per question into the artifact ``name``.

    With ``config.sample.stopping`` a question's paths are those that the rule counts, which depend
    on path order alone, so a resumed run has the same ones. ``inputs`` names the artifacts that the
    model's weights come from.

    Raises:
        PromptTooLong: a prompt leaves no room for an answer; nothing was sampled.
        ArtifactError: the run folder cannot be written.
    """
    form = config.prompt.sample_format
    rule = parse_rule(config.sample.stopping)
    prompts = [
        encode_prompt(
            llm.tokenizer, template.prompt(q.question, form), template.adds_special_tokens
        )
        for q in questions
    ]
    check_lengths(questions, prompts, context_length(llm.model))
    size = config.sample.shard_questions
    folder = parts_folder(name)
    starts = range(0, len(questions), size)
    parts = {start: f"{folder}/paths-{start // size:06d}.parquet" for start in starts}
    finished = {start for start in starts if manifest.finished(parts[start])}
    done = sum(len(questions[start : start + size]) for start in finished)
    with reporter.phase(f"round {round_index}: sample", len(questions), done) as advance:
        for start in starts:
            if start in finished:
                continue
            shard = questions[start : start + size]
            began = time.perf_counter()
            params = config.sample.params(
                round_index,
                stop=template.stop(form),
                seed=stream("sample", config.seed, round_index, start // size),
            )
            llm.reset_prefix_cache()
            outputs = llm.generate(
                [{"prompt_token_ids": ids} for ids in prompts[start : start + size]],
                params,
                use_tqdm=False,
                controllers=controllers(rule, params.n, len(shard), config.extractor),
            )
            rows = path_rows(shard, outputs, config.extractor)
            write_table(manifest.path(parts[start]), PATHS, rows)
            seconds = time.perf_counter() - began
            tokens = sum(row["num_tokens"] for row in rows)
            manifest.record(parts[start], inputs=inputs, seconds=seconds, notes={"tokens": tokens})
            advance(len(shard), f"{tokens / seconds:,.0f} tokens/s")
    llm.reset_prefix_cache()
    _join(manifest, name, list(parts.values()), inputs)


def parts_folder(name: str) -> str:
    """Where the part files of the artifact ``name`` are, until they are joined."""
    return f"{name.rsplit('/', 1)[0]}/.parts"


def path_rows(
    questions: Sequence[Question], outputs: Sequence[RequestOutput], extractor: str
) -> list[dict[str, Any]]:
    """Rows of ``paths.parquet``, question by question and path by path."""
    texts = [path.text for output in outputs for path in output.outputs]
    keys = iter(answer_keys(texts, extractor=extractor))
    return [
        {
            "question_id": question.id,
            "path": path.index,
            "text": path.text,
            "token_ids": path.token_ids,
            "num_tokens": len(path.token_ids),
            "cumulative_logprob": path.cumulative_logprob,
            "finish_reason": path.finish_reason,
            "stop_reason": None if path.stop_reason is None else str(path.stop_reason),
            "answer": next(keys),
            "token_logprobs": path.token_logprobs,
        }
        for question, output in zip(questions, outputs, strict=True)
        for path in output.outputs
    ]


def _join(manifest: Manifest, name: str, parts: list[str], inputs: Sequence[str]) -> None:
    """Make one file of the parts."""
    records = [manifest.artifact(part) for part in parts]
    join_tables(manifest.path(name), PATHS, [manifest.path(part) for part in parts])
    manifest.record(
        name,
        inputs=inputs,
        seconds=sum(record.seconds for record in records),
        notes={"tokens": sum(record.notes["tokens"] for record in records)},
    )
