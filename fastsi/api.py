"""The package's face: the engine with a vote, and one function per kind of work.

Plain values in, plain values out; the command line is a thin layer over this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fastsi import engine
from fastsi import vote as voting
from fastsi.data.manifest import Manifest
from fastsi.data.templates import PromptConfig, Template
from fastsi.engine.loading import resolve_device
from fastsi.errors import ConfigError
from fastsi.evaluate import Problems, compare, encode_prompts, store
from fastsi.train.checkpoint import fingerprint
from fastsi.train.config import ImproveConfig
from fastsi.train.progress import Reporter
from fastsi.train.rounds import open_run, run_rounds
from fastsi.train.sample import path_rows
from fastsi.train.sampler import check_lengths, context_length
from fastsi.train.tables import PATHS, write_table
from fastsi.types import Question, RequestOutput, SamplingParams, Vote, check_known
from fastsi.vote.stopping import Rule, Stop, controllers
from fastsi.vote_files import new_file, vote_file

BUILTIN = "builtin"
"""Name of the bundled base model."""
EVALUATION = "evaluation"
"""Name of the folder with a run's evaluations, inside the run folder."""
PAPER_SAMPLING = SamplingParams(n=32, temperature=0.7, max_tokens=256)
"""What the method's paper samples with."""
_ENGINE_OPTIONS = ("dtype", "quantization", "kv_dtype")
_BLOCK = 64
"""Questions sampled in one call of the engine; progress is told after each."""

vote = vote_file


class LLM(engine.LLM):
    """The engine, with a vote on top."""

    def vote(
        self,
        prompts: str | Sequence[str],
        sampling_params: SamplingParams | None = None,
        extractor: str = "auto",
        stopping: str | Rule | None = None,
        weights: str = "uniform",
        stop_at_answer: bool = False,
        wave: int | Literal["auto"] = "auto",
    ) -> list[Vote]:
        """Sample ``sampling_params.n`` paths per prompt and vote on their answers.

        Args:
            prompts: one prompt text or several.
            sampling_params: how to sample; None: 32 paths at temperature 0.7, 256 tokens at most.
            extractor: how the answer is found in a text; one of ``fastsi.vote.EXTRACTORS``.
            stopping: when to stop before all paths are sampled: ``exact``, ``beta:0.95``,
                ``window:5`` (`fastsi.vote.stopping`), or None for never. Which paths count depends
                on path order alone; ``Vote.n`` is their number, ``Vote.stop_reason`` why it is.
            weights: how much a path's vote weighs; one of ``fastsi.vote.SCHEMES``. ``window:W``
                uses token confidences where ``sampling_params.logprobs`` is at least 2.
            stop_at_answer: end each path at the token that completes its first answer, as
                ``sampling_params.stop_at_answer`` does. The vote is then over the full texts cut at
                their `fastsi.ops.answer_end`. It differs from the vote over full texts only where a
                path states an answer and later another: the first one counts, not the last.
            wave: with a rule, how many paths of a prompt to have under way beyond those counted;
                "auto": the fewest with which the rule can stop. Changes the time, not the votes.

        Returns:
            One vote per prompt, in order.

        Raises:
            ConfigError: an unknown extractor, weighting, stopping rule or wave, ``exact`` with
                weights, or ``stop_at_answer`` with an extractor of one form.
        """
        check_known([extractor], voting.EXTRACTORS, "extractor")
        config = voting.WeightConfig.parse(weights)
        rule = voting.parse_rule(stopping, weights=config.name)
        params = sampling_params or PAPER_SAMPLING
        if stop_at_answer and extractor != "auto":
            raise ConfigError(
                f"stop_at_answer with extractor={extractor!r}: needs extractor='auto', since the "
                "first answer of any form ends a path"
            )
        if stop_at_answer:
            params = dataclasses.replace(params, stop_at_answer=True)
        many = [prompts] if isinstance(prompts, str) else prompts
        deciding = controllers(rule, params.n, len(many), extractor, wave)
        outputs = self.generate(many, params, use_tqdm=False, controllers=deciding)
        stops = [None] * len(many) if deciding is None else [each.stop for each in deciding]
        return [
            _vote_on(group, extractor, config, params.logprobs or 0, stop)
            for group, stop in zip(outputs, stops, strict=True)
        ]


Model: TypeAlias = str | Path | LLM
"""A loaded model, or what names one: a folder, a hub id, a .gguf file, or ``builtin``."""


def load_model(model: Model, **options: Any) -> LLM:
    """The engine on a model.

    Args:
        model: what to load; a loaded one is returned as it is.
        options: keyword arguments of ``fastsi.engine.LLM``.

    Raises:
        ModelError: the model cannot be loaded.
    """
    if isinstance(model, LLM):
        return model
    return LLM(str(builtin_model() if model == BUILTIN else model), **options)


def _load_to_sample(model: Model, **options: Any) -> LLM:
    """`load_model` for a call that only samples: what is loaded here is not held twice."""
    if isinstance(model, LLM):
        return model
    return load_model(model, release_weights=resolve_device("auto").type == "cpu", **options)


def builtin_model() -> Path:
    """The folder of the bundled base model."""
    return Path(__file__).parent / "assets" / "base"


def prompt_config(values: Mapping[str, Any]) -> PromptConfig:
    """Prompt settings from a mapping such as a TOML table.

    Raises:
        ConfigError: unknown key or bad value.
    """
    names = [field.name for field in dataclasses.fields(PromptConfig)]
    check_known(values, names, "prompt field")
    return PromptConfig(**values)


def engine_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the engine from a mapping such as a TOML table; their values are checked by `LLM`.

    Raises:
        ConfigError: unknown key.
    """
    check_known(values, _ENGINE_OPTIONS, "engine field")
    return dict(values)


def sample(
    model: Model,
    questions: Sequence[Question],
    *,
    out: str | Path,
    sampling: SamplingParams = PAPER_SAMPLING,
    prompt: PromptConfig | None = None,
    options: Mapping[str, Any] | None = None,
    extractor: str = "auto",
    stopping: str | Rule | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Sample paths of every question into a Parquet file with the columns of ``paths.parquet``.

    Args:
        model: which model.
        questions: what to ask, ids unique.
        out: file to write; it must not exist.
        sampling: how to sample; ``n`` paths per question. Its stop strings, if any, replace those
            that fit the prompt style.
        prompt: how questions are put; None: the defaults.
        options: of `LLM`, for a model that is loaded here; see `engine_options`.
        extractor: how the answer is found; one of ``fastsi.vote.EXTRACTORS``.
        stopping: when to stop before ``n`` paths, as in `LLM.vote`; the file then has the
            paths that count.
        progress: show a bar on standard error if it is a terminal.

    Returns:
        Counts of questions, paths and tokens, ``parse_rate``, ``tokens_per_s``, ``seconds`` per
        phase, and ``out``.

    Raises:
        ArtifactError: ``out`` exists or cannot be written.
        ConfigError: an option of the engine does not fit the model, or the model is loaded already.
        PromptTooLong: a question does not fit the model's context; nothing was sampled.
    """
    check_known([extractor], voting.EXTRACTORS, "extractor")
    rule = voting.parse_rule(stopping)
    out = new_file(out)
    prompt = prompt or PromptConfig()
    seconds = _Seconds()
    options = engine_options(options or {})
    if options and isinstance(model, LLM):
        raise ConfigError(f"options={options}: the model is loaded already; give them to LLM(...)")
    with seconds.phase("load"):
        llm = _load_to_sample(model, **options)
    template = Template.from_config(prompt, llm.tokenizer)
    ids = encode_prompts(llm, questions, template, prompt.sample_format)
    check_lengths(questions, ids, context_length(llm.model))
    if not sampling.stop:
        sampling = dataclasses.replace(sampling, stop=template.stop(prompt.sample_format))
    rows: list[dict[str, Any]] = []
    with seconds.phase("sample"), Reporter(progress).phase("sample", len(questions)) as advance:
        for begin in range(0, len(questions), _BLOCK):
            block = questions[begin : begin + _BLOCK]
            outputs = llm.generate(
                [{"prompt_token_ids": each} for each in ids[begin : begin + _BLOCK]],
                sampling,
                use_tqdm=False,
                controllers=controllers(rule, sampling.n, len(block), extractor),
            )
            rows += path_rows(block, outputs, extractor)
            advance(len(block), "")
    write_table(out, PATHS, rows)
    tokens = sum(row["num_tokens"] for row in rows)
    return {
        "out": str(out),
        "questions": len(questions),
        "paths": len(rows),
        "tokens": tokens,
        "parse_rate": sum(row["answer"] is not None for row in rows) / len(rows),
        "tokens_per_s": tokens / seconds["sample"],
        "seconds": dict(seconds),
    }


def evaluate_model(
    model: Model,
    problems: Problems,
    *,
    folder: str | Path | None = None,
    name: str = "evaluation",
    weights: str | None = None,
    progress: bool = True,
) -> store.StoredEvaluation:
    """Evaluate one model against gold answers.

    Args:
        model: which model.
        problems: questions, gold answers, prompts and sampling settings.
        folder: where to keep responses and scores, for a report and so that the same evaluation is
            not repeated; None: nowhere.
        name: under which the folder keeps them.
        weights: fingerprint that the model must have; None: any.
        progress: show a bar on standard error if it is a terminal.

    Raises:
        ArtifactError: the folder holds evaluations of other problems, or cannot be written.
        ConfigError: the model has another fingerprint.
        PromptTooLong: a question does not fit the model's context; nothing was sampled.
    """
    if folder is None:
        llm = _load_to_sample(model)
        return _evaluate(llm, problems, name, progress)
    # Entered before the model is loaded: a folder that will not do is refused at once.
    with Manifest(folder, problems.identity()) as kept:
        llm = load_model(model)
        found = fingerprint(llm.model)
        if weights not in (None, found):
            raise ConfigError(
                f"model={str(model)!r}: has the fingerprint {found}; the run began with {weights}"
            )
        if not store.is_stored(kept, name, found):
            if llm is not model and llm.model.device.type == "cpu":
                llm.release_weights()  # not before: the fingerprint has read them
            store.save(kept, name, _evaluate(llm, problems, name, progress), found)
    return store.load(folder, name)


def improve(
    model: Model,
    questions: Sequence[Question],
    out: str | Path,
    *,
    config: ImproveConfig | None = None,
    problems: Problems | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run label-free rounds, and evaluate before and after where there are problems to do it on.

    Interrupted at any moment, the same call goes on where it was.

    Args:
        model: the base model.
        questions: what to learn from; without answers, ids unique.
        out: the run folder, new or of the same run.
        config: all settings of the rounds; None: the defaults.
        problems: held-out questions with gold answers; they touch evaluation alone.
        progress: show bars on standard error if it is a terminal.

    Returns:
        ``folder``, ``checkpoint``, ``rounds`` (metrics of each), ``seconds`` per phase, and with
        problems ``before``, ``after`` and ``change``.

    Raises:
        ArtifactError: the folder is of another run, damaged, or cannot be written.
        FastsiError: what the rounds refuse (``fastsi.train.rounds.run_rounds``).
    """
    config = config or ImproveConfig()
    seconds = _Seconds()
    with seconds.phase("load"):
        llm = load_model(model)
    with open_run(llm, config, questions, out):
        pass
    kept = Path(out) / EVALUATION
    if problems is not None:
        before = evaluate_model(llm, problems, folder=kept, name="before", progress=progress)
        seconds["evaluate_before"] = before.seconds
    reports = run_rounds(llm, config, questions, out, progress)
    for report in reports:
        for phase, spent in report.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    result: dict[str, Any] = {
        "folder": str(out),
        "checkpoint": reports[-1].checkpoint,
        "rounds": [dataclasses.asdict(report) for report in reports],
    }
    if problems is not None:
        after = evaluate_model(llm, problems, folder=kept, name="after", progress=progress)
        seconds["evaluate_after"] = after.seconds
        result |= comparison(before, after)
    return result | {"seconds": dict(seconds)}


def comparison(
    before: store.StoredEvaluation, after: store.StoredEvaluation, pass_at: Sequence[int] = ()
) -> dict[str, Any]:
    """Two evaluations of the same problems as JSON values: ``before``, ``after``, ``change``."""
    change = compare(before.rows, after.rows)
    return {
        "before": before.summary(pass_at).to_json(),
        "after": after.summary(pass_at).to_json(),
        "change": {name: dataclasses.asdict(each) for name, each in change.items()},
    }


class _Seconds(dict[str, float]):
    """Wall time by phase."""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self[name] = time.perf_counter() - began


def _evaluate(llm: LLM, problems: Problems, name: str, progress: bool) -> store.StoredEvaluation:
    template = Template.from_config(problems.prompt, llm.tokenizer)
    ids = encode_prompts(llm, problems.questions, template, problems.prompt.sample_format)
    check_lengths(problems.questions, ids, context_length(llm.model))
    count = len(problems.questions)
    label = "evaluate" if name == "evaluation" else f"evaluate {name}"
    with Reporter(progress).phase(label, count) as advance:
        return problems.evaluate(llm, lambda done: advance(done, ""))


def _vote_on(
    group: RequestOutput,
    extractor: str,
    weights: voting.WeightConfig,
    top_logprobs: int,
    stop: Stop | None,
) -> Vote:
    paths = group.outputs
    confidences = None
    if weights.name == "window" and top_logprobs >= 2:
        confidences = [voting.token_confidences(p.logprobs or [], top_logprobs) for p in paths]
    return voting.vote(
        [path.text for path in paths],
        logprobs=[path.token_logprobs for path in paths],
        weights=weights,
        confidences=confidences,
        stop_reason="full" if stop is None else stop.reason,
        extractor=extractor,
    )
