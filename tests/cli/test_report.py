"""The report: complete, self-contained, readable without pictures, and honest."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastsi.cli.report import page, write, write_if_possible
from fastsi.cli.report.figures import running_mean
from fastsi.data.manifest import Manifest
from fastsi.errors import ConfigError
from fastsi.evaluate import METRICS, Difference, store
from tests.cli.conftest import Cli
from tests.cli.scripted import LearningSampler

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        for name in ("src", "href"):
            if values.get(name):
                self.links.append(str(values[name]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)


def test_report_of_a_run_with_evaluations(cli: Cli, run_folder: Path) -> None:
    ended = cli("report", run_folder)
    assert ended.out == f"{run_folder / 'report.html'}\n"
    text = (run_folder / "report.html").read_text()
    shown = Page(text)
    assert shown.headings == [
        "Figures", "Measures", "Rounds", "Time", "Examples", "Settings"
    ]  # fmt: skip
    assert len(shown.images) == 4
    assert all(link.startswith("data:image/svg+xml;base64,") for link in shown.links)
    assert not re.search(r"url\(|@import|<script|<link", text)
    for image in shown.images:
        assert len(image["alt"] or "") > 30
        source = (image["src"] or "").partition(",")[2]
        root = ElementTree.fromstring(base64.b64decode(source))
        assert root.tag.endswith("svg")
    stored = store.load(run_folder / "evaluation", "after").summary()
    for name in METRICS:
        assert f"{100 * getattr(stored, name):.1f}" in shown.text
    assert "Gold answer" in shown.text
    assert "train.learning_rate" in shown.text


def test_report_without_gold_says_so(cli: Cli, run_folder: Path) -> None:
    shutil.rmtree(run_folder / "evaluation")
    assert cli("report", run_folder, "--examples", "3").code == 0
    shown = Page((run_folder / "report.html").read_text())
    assert "No evaluation against gold answers" in shown.text
    assert "Measures" not in shown.headings
    assert len(shown.images) == 2
    assert "Gold answer" not in shown.text


def test_the_same_run_gives_the_same_report(run_folder: Path, tmp_path: Path) -> None:
    first = write(run_folder, tmp_path / "a.html").read_bytes()
    assert write(run_folder, tmp_path / "b.html").read_bytes() == first


def test_texts_of_a_model_cannot_break_the_page(run_folder: Path) -> None:
    stored = store.load(run_folder / "evaluation", "before")
    evil = "</pre><script>alert(1)</script> The answer is 3."
    hostile = dataclasses.replace(
        stored,
        responses=tuple(
            dataclasses.replace(each, greedy=evil, texts=(evil,) * 6) for each in stored.responses
        ),
        questions=tuple(
            dataclasses.replace(each, question="<b>bold</b> & rude?") for each in stored.questions
        ),
    )
    config = json.loads((run_folder / "evaluation" / "manifest.json").read_text())["config"]
    with Manifest(run_folder / "evaluation", config) as folder:
        store.save(folder, "before", hostile, "w")
    text = write(run_folder, run_folder / "report.html").read_text()
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    Page(text)


@pytest.mark.parametrize(
    ("low", "high", "verb"),
    [(0.01, 0.2, "rose"), (-0.2, -0.01, "fell"), (-0.01, 0.2, "did not change beyond chance")],
)
def test_headline_claims_what_the_interval_supports(low: float, high: float, verb: str) -> None:
    change = {
        name: Difference(change=(low + high) / 2, low=low, high=high)
        for name in ("greedy", "consistency")
    }
    numbers = {"greedy": 0.4, "consistency": 0.5, "majority": 0.45, "paths": 8}
    lines = page._headline({"before": numbers, "after": numbers}, change)
    assert lines[0].startswith(f"Greedy accuracy {verb}: ")
    assert lines[1].startswith(f"Consistency {verb}: ")
    assert "5.0 points below the majority of 8 paths" in lines[2]


def test_missing_packages_are_named(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fastsi.cli.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r"pip install 'fastsi\[report\]'"):
        write(run_folder, run_folder / "report.html")
    said: list[str] = []
    assert write_if_possible(run_folder, said.append) is None
    assert "fastsi[report]" in said[0]


@pytest.mark.parametrize("count", [1, 2, 7, 150])
def test_running_mean_keeps_length_and_mean_of_a_constant(count: int) -> None:
    assert running_mean([2.5] * count) == pytest.approx([2.5] * count)
    ramp = running_mean([float(i) for i in range(count)])
    assert len(ramp) == count
    assert ramp == sorted(ramp)


def test_report_of_two_rounds_without_gold(
    cli: Cli, inputs: dict[str, Path], tmp_path: Path, scripted: list[LearningSampler]
) -> None:
    words = ["--model=x", "--questions", inputs["questions"], "--rounds=2", "--paths=6"]
    words += ["--steps=4", "--set=train.batch_size=4", "--set=train.learning_rate=1e-3"]
    record = cli("improve", *words, "--out", tmp_path / "run", "--json").json()
    assert [each["round"] for each in record["rounds"]] == [1, 2]
    shown = Page(Path(record["report"]).read_text())
    assert [(image["alt"] or "").count("round ") for image in shown.images] == [2, 2]
    assert {"round 1: sample", "round 2: train"} <= set(re.findall(r"round \d: [a-z]+", shown.text))
