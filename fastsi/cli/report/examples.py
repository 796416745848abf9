"""Example questions of a report: what the model wrote, and how its paths voted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastsi import vote
from fastsi.cli._runs import Run
from fastsi.evaluate.store import StoredEvaluation
from fastsi.train.tables import PATHS, VOTES, read_rows
from fastsi.types import Vote

_PATHS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPath:
    """One path."""

    label: str
    text: str
    answer: str
    """The answer as text; a dash where the path abstained."""
    mark: str
    """``right``, ``wrong``, or nothing where no gold answer is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One model's paths for a question."""

    name: str
    votes: tuple[tuple[str, int, float, str], ...]
    """Per answer, most votes first: the answer, its votes, its share of the paths, and its mark."""
    paths: tuple[ShownPath, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question."""

    question: str
    gold: str | None
    stages: tuple[Stage, ...]


def examples_of_evaluations(stored: Mapping[str, StoredEvaluation], count: int) -> list[Example]:
    """Held-out problems, taking turns over how the majority changed, in file order within each.

    Right after wrong, wrong after right, right twice, wrong twice: a reader sees what was lost too.
    """
    first = next(iter(stored.values()))
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for index in range(len(first.rows)):
        outcome = tuple(each.rows[index].value("majority") == 1.0 for each in stored.values())
        kinds.setdefault(outcome, []).append(index)
    order = [(False, True), (True, False), (True, True), (False, False), (True,), (False,)]
    queues = [kinds[kind] for kind in order if kind in kinds]
    chosen = [
        queue[turn]
        for turn in range(max(map(len, queues)))
        for queue in queues
        if turn < len(queue)
    ]
    examples = []
    for index in chosen[:count]:
        gold = first.rows[index].gold
        stages = []
        for name, each in stored.items():
            response = each.responses[index]
            outcome_ = vote.vote(list(response.texts), logprobs=list(response.logprobs))
            texts = [("greedy", response.greedy)]
            texts += [(f"path {i + 1}", t) for i, t in enumerate(response.texts[:_PATHS_SHOWN])]
            stages.append(_stage(name, outcome_, texts, gold))
        examples.append(
            Example(
                question=first.questions[index].question,
                gold=vote.render(gold),
                stages=tuple(stages),
            )
        )
    return examples


def examples_of_round(folder: Path, run: Run, count: int) -> list[Example]:
    """Training questions of the last round, the surest and the least sure; no gold is known."""
    if not run.reports or count == 0:
        return []
    last = folder / f"round-{run.reports[-1].round}"
    votes = sorted(read_rows(last / "votes.parquet", VOTES), key=lambda row: -row["share"])
    sure = (count + 1) // 2
    chosen = votes[:sure] + votes[sure:][-(count - sure) :] if count > sure else votes[:sure]
    wanted = {row["question_id"] for row in chosen}
    paths: dict[str, list[tuple[str, float]]] = {}
    for row in read_rows(last / "paths.parquet", PATHS):
        if row["question_id"] in wanted:
            pair = (row["text"], row["cumulative_logprob"])
            paths.setdefault(row["question_id"], []).append(pair)
    examples = []
    for row in chosen:
        texts, logprobs = zip(*paths[row["question_id"]], strict=True)
        outcome = vote.vote(texts, logprobs=logprobs, extractor=run.config.extractor)
        labelled = [(f"path {i + 1}", text) for i, text in enumerate(texts[:_PATHS_SHOWN])]
        stage = _stage(f"round {run.reports[-1].round}", outcome, labelled, None)
        examples.append(
            Example(question=f"question {row['question_id']}", gold=None, stages=(stage,))
        )
    return examples


def _stage(name: str, outcome: Vote, texts: Sequence[tuple[str, str]], gold: str | None) -> Stage:
    return Stage(
        name=name,
        votes=tuple(
            (vote.render(key), votes, votes / outcome.n, _mark(key, gold))
            for key, votes in list(outcome.counts.items())[:5]
        ),
        paths=tuple(
            ShownPath(
                label=label,
                text=text.strip() or "(empty)",
                answer="-" if key is None else vote.render(key),
                mark=_mark(key, gold),
            )
            for label, text in texts
            for key in [vote.answer_key(text)]
        ),
    )


def _mark(key: str | None, gold: str | None) -> str:
    if gold is None:
        return ""
    return "right" if key == gold else "wrong"
