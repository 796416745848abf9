"""Rounds of self-improvement: sample, vote, select, mix, train; resumable at any moment.

Every phase turns artifacts into one artifact and is skipped when the manifest lists that one, whole
and made from the present inputs:

    paths.parquet -> votes.parquet -> train.parquet -> checkpoint/ -> metrics.json
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fastsi.data.manifest import Manifest
from fastsi.data.mixing import KeptPath, choose_formats, mix
from fastsi.data.templates import Template
from fastsi.errors import ConfigError
from fastsi.train.batches import Encoded, encode
from fastsi.train.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from fastsi.train.config import ImproveConfig
from fastsi.train.progress import Reporter
from fastsi.train.report import RoundReport, concentration_row, sampling_numbers
from fastsi.train.sample import parts_folder, sample_paths
from fastsi.train.sampler import Sampler, context_length, stream
from fastsi.train.select import check_collapse, concentrations, decided, kept_rows, vote_rows
from fastsi.train.tables import PATHS, TRAIN, VOTES, read_rows, write_table
from fastsi.train.trainer import fine_tune
from fastsi.types import Question
from fastsi.vote import render


def run_rounds(
    llm: Sampler | Callable[[], Sampler],
    config: ImproveConfig,
    questions: Sequence[Question],
    out_dir: str | Path,
    progress: bool = True,
) -> list[RoundReport]:
    """Improve the model of ``llm`` on questions, without labels.

    The module is trained in place: afterwards ``llm`` samples from the last round's model. A run
    that was interrupted, at any moment, is continued by the same call.

    Args:
        llm: an engine with the base model's weights, or a function that makes one.
        config: all settings.
        questions: with unique ids, at least one.
        out_dir: the run folder, new or of the same run.
        progress: show bars on standard error if it is a terminal.

    Returns:
        One report per round.

    Raises:
        ArtifactError: the folder is of another config, model or questions, damaged, or cannot be
            written.
        ConfigError: no questions, contradicting formats, or the guards kept no path.
        TemplateCollapse: one answer wins too many questions.
        PromptTooLong: a prompt does not fit the model's context.
    """
    sampler = llm() if callable(llm) else llm
    with open_run(sampler, config, questions, out_dir) as manifest:
        template = Template.from_config(config.prompt, sampler.tokenizer)
        run = _Run(sampler, config, questions, template, manifest, Reporter(progress))
        reports = [run.round(index) for index in range(1, config.rounds + 1)]
        run.use_weights(config.rounds)
    return reports


def open_run(
    llm: Sampler, config: ImproveConfig, questions: Sequence[Question], out_dir: str | Path
) -> Manifest:
    """The manifest of a run, not yet entered; entering it makes the folder or refuses it.

    ``run_rounds`` does this itself. A caller that puts other work first, such as an evaluation of
    the base model, enters and leaves it once to learn at once whether the folder will do.

    Args:
        llm: an engine with the base model's weights.
        config: all settings.
        questions: with unique ids, at least one.
        out_dir: the run folder.

    Raises:
        ConfigError: no questions, or contradicting formats.
    """
    _check_questions(questions)
    template = Template.from_config(config.prompt, llm.tokenizer)
    choose_formats(config.mix, template, config.prompt.sample_format)
    identity = _identity(config, questions, template, llm)
    return Manifest(out_dir, identity, open_ended=("rounds",))


def _check_questions(questions: Sequence[Question]) -> None:
    if not questions:
        raise ConfigError("no questions")
    if len({question.id for question in questions}) != len(questions):
        raise ConfigError("question ids must be unique")


def _identity(
    config: ImproveConfig, questions: Sequence[Question], template: Template, llm: Sampler
) -> dict[str, Any]:
    """Everything that decides the artifacts; how often to save does not."""
    settings = config.to_dict()
    del settings["train"]["save_every"]
    asked = json.dumps([[q.id, q.question] for q in questions])
    shown = json.dumps([[e.question, e.rationale, e.answer] for e in template.exemplars])
    return {
        **settings,
        "questions": {"count": len(questions), "sha256": _sha256(asked)},
        "exemplars": {"count": len(template.exemplars), "sha256": _sha256(shown)},
        "model": {
            "architecture": type(llm.model).__name__,
            "parameters": sum(p.numel() for p in llm.model.parameters()),
            "fingerprint": fingerprint(llm.model),
        },
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class _Run:
    """One run's rounds. Round 0 is the base model."""

    def __init__(
        self,
        llm: Sampler,
        config: ImproveConfig,
        questions: Sequence[Question],
        template: Template,
        manifest: Manifest,
        reporter: Reporter,
    ) -> None:
        self._llm = llm
        self._config = config
        self._questions = questions
        self._template = template
        self._manifest = manifest
        self._reporter = reporter
        self._weights: int | None = 0
        self._base: dict[str, torch.Tensor] | None = None
        if config.rounds > 1 and config.start_from == "base":
            state = llm.model.state_dict()
            self._base = {name: tensor.detach().clone() for name, tensor in state.items()}

    def round(self, index: int) -> RoundReport:
        """Run what is missing of a round, in order."""
        self._sample(index)
        self._vote(index)
        self._select(index)
        self._train(index)
        return self._report(index)

    def use_weights(self, index: int) -> None:
        """Make the live module the model that round ``index`` ended with."""
        if self._weights == index:
            return
        self._weights = None
        if index == 0:
            assert self._base is not None, "only a second round goes back to the base"
            self._llm.model.load_state_dict(self._base)
        else:
            load_checkpoint(self._llm.model, self._manifest.path(_name(index, "checkpoint")))
        self._llm.reset_prefix_cache()
        self._weights = index

    def _sample(self, index: int) -> None:
        name = _name(index, "paths.parquet")
        if not self._manifest.finished(name):
            self.use_weights(index - 1)
            sample_paths(
                self._llm,
                self._questions,
                self._template,
                self._config,
                index,
                self._manifest,
                name,
                self._reporter,
                inputs=[_name(index - 1, "checkpoint")] if index > 1 else [],
            )
        # Here and below: what a finished phase leaves behind is removed also when a kill came
        # between its end and this line.
        self._manifest.discard(parts_folder(name))

    def _vote(self, index: int) -> None:
        name, source = _name(index, "votes.parquet"), _name(index, "paths.parquet")
        if self._manifest.finished(name):
            return
        began = time.perf_counter()
        votes = vote_rows(
            self._rows(index, "paths.parquet"),
            self._config.weights,
            self._config.sample.stopping,
            self._config.sample.paths,
        )
        write_table(self._manifest.path(name), VOTES, votes)
        self._manifest.record(name, inputs=[source], seconds=time.perf_counter() - began)

    def _select(self, index: int) -> None:
        """Guards, then the kept paths in their formats."""
        name = _name(index, "train.parquet")
        if self._manifest.finished(name):
            return
        began = time.perf_counter()
        votes = self._rows(index, "votes.parquet")
        check_collapse(votes, self._questions, self._config.select, index)
        kept = kept_rows(self._rows(index, "paths.parquet"), votes, self._config.select)
        if not kept:
            share = sum(vote["share"] for vote in votes) / len(votes)
            raise ConfigError(
                f"round {index}: no path of {len(votes)} questions passed the selection (mean "
                f"share of the winner {share:.2f}); sample more paths, raise max_tokens, or lower "
                "select.min_share and select.min_lead"
            )
        by_id = {question.id: question for question in self._questions}
        winners = {vote["question_id"]: vote["winner"] for vote in votes}
        formats = choose_formats(
            self._config.mix, self._template, self._config.prompt.sample_format
        )
        examples = mix(
            [
                KeptPath(
                    question=by_id[row["question_id"]],
                    path=row["path"],
                    text=row["text"],
                    answer=render(winners[row["question_id"]]),
                )
                for row in kept
            ],
            self._template,
            formats,
            self._config.mix,
            stream("mix", self._config.seed, index),
        )
        rows = [{n: getattr(e, n) for n in TRAIN.names} for e in examples]
        write_table(self._manifest.path(name), TRAIN, rows)
        self._manifest.record(
            name,
            inputs=[_name(index, "paths.parquet"), _name(index, "votes.parquet")],
            seconds=time.perf_counter() - began,
            notes={
                "decided": len(decided(votes, self._config.select)),
                "kept_questions": len({row["question_id"] for row in kept}),
                "kept_paths": len(kept),
            },
        )

    def _train(self, index: int) -> None:
        name = _name(index, "checkpoint")
        state_path = self._manifest.path(_name(index, ".training-state"))
        if not self._manifest.finished(name):
            self._fine_tune(index, name, state_path)
        state_path.unlink(missing_ok=True)

    def _fine_tune(self, index: int, name: str, state_path: Path) -> None:
        source = _name(index, "train.parquet")
        start = 0 if self._config.start_from == "base" else index - 1
        self.use_weights(start)
        self._weights = None
        sequences, skipped = self._encoded(index)
        config = self._config.train
        model = self._llm.model
        identity = f"{self._manifest.artifact(source).sha256} {fingerprint(model)}"
        began = time.perf_counter()
        with self._reporter.phase(f"round {index}: train", config.steps) as advance:
            shown = 0

            def on_step(done: int, loss: float) -> None:
                nonlocal shown
                advance(done - shown, f"loss {loss:.3f}")
                shown = done

            log = fine_tune(
                model,
                sequences,
                config,
                stream("train", self._config.seed, index),
                state_path=state_path,
                identity=identity,
                on_step=on_step,
            )
        save_checkpoint(model, self._llm.tokenizer, self._manifest.path(name))
        self._llm.reset_prefix_cache()
        self._weights = index
        inputs = [source]
        if start:
            inputs.append(_name(start, "checkpoint"))
        self._manifest.record(
            name,
            inputs=inputs,
            seconds=max(log.seconds, time.perf_counter() - began),
            notes={
                "loss": log.losses,
                "grad_norm": log.grad_norms,
                "computed_tokens": log.computed_tokens,
                "padding_tokens": log.padding_tokens,
                "step_seconds": log.seconds,
                "skipped": skipped,
            },
        )

    def _encoded(self, index: int) -> tuple[list[Encoded], int]:
        """The training sequences that fit the model's context, and how many do not."""
        rows = self._rows(index, "train.parquet")
        sequences = [
            encode(
                self._llm.tokenizer,
                row["prompt"],
                row["target"],
                row["format"],
                add_special_tokens=self._template.adds_special_tokens,
            )
            for row in rows
        ]
        limit = context_length(self._llm.model)
        fitting = [s for s in sequences if limit is None or len(s.ids) <= limit]
        if not fitting:
            raise ConfigError(
                f"round {index}: every training example is longer than the model's context of "
                f"{limit} tokens; use fewer exemplars or fewer formats"
            )
        return fitting, len(sequences) - len(fitting)

    def _report(self, index: int) -> RoundReport:
        name = _name(index, "metrics.json")
        phases = {
            "sample": "paths.parquet",
            "vote": "votes.parquet",
            "select": "train.parquet",
            "train": "checkpoint",
        }
        if self._manifest.finished(name):
            return RoundReport.load(self._manifest.path(name))
        records = {p: self._manifest.artifact(_name(index, f)) for p, f in phases.items()}
        paths, votes = self._rows(index, "paths.parquet"), self._rows(index, "votes.parquet")
        selected, trained = records["select"].notes, records["train"].notes
        computed = trained["computed_tokens"]
        report = RoundReport(
            round=index,
            folder=str(self._manifest.path(f"round-{index}")),
            **sampling_numbers(paths, votes),
            **selected,
            examples=len(self._rows(index, "train.parquet")),
            skipped_examples=trained["skipped"],
            concentration=[concentration_row(c) for c in concentrations(votes, self._questions)],
            loss=trained["loss"],
            grad_norm=trained["grad_norm"],
            padding_share=trained["padding_tokens"] / computed,
            seconds={phase: record.seconds for phase, record in records.items()},
            tokens_per_s={
                "sample": records["sample"].notes["tokens"] / records["sample"].seconds,
                "train": computed / trained["step_seconds"],
            },
        )
        report.save(self._manifest.path(name))
        self._manifest.record(name, inputs=[_name(index, file) for file in phases.values()])
        return report

    def _rows(self, index: int, file: str) -> list[dict[str, Any]]:
        schema = {"paths.parquet": PATHS, "votes.parquet": VOTES, "train.parquet": TRAIN}[file]
        return read_rows(self._manifest.path(_name(index, file)), schema)


def _name(index: int, file: str) -> str:
    return f"round-{index}/{file}"
