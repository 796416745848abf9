"""Run folders: nothing half-written is ever seen, and nothing of another run is touched."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastsi.data.manifest import (
    MANIFEST,
    Manifest,
    atomic_folder,
    atomic_write,
    content_hash,
)
from fastsi.errors import ArtifactError
from tests.support.small_disk import small_disk

CONFIG = {"seed": 0, "sample": {"paths": 4}, "rounds": 1}


def partials(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.endswith(".partial")]


class Broken(Exception):
    pass


def _write_half(path: Path, error: Exception) -> None:
    path.write_text("half of the n")
    raise error


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(Broken), atomic_write(target) as temporary:
        _write_half(temporary, Broken())
    assert target.read_text() == "old"
    assert partials(tmp_path) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    for content in ("old", "new"):
        with atomic_folder(target) as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / f"{content}.txt").write_text(content)
    assert [p.name for p in target.rglob("*.txt")] == ["new.txt"]
    with pytest.raises(Broken), atomic_folder(target) as temporary:
        _write_half(temporary / "half.txt", Broken())
    assert [p.name for p in target.rglob("*.txt")] == ["new.txt"]
    assert partials(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_refusals_of_the_file_system_become_one_line(tmp_path: Path, code: int) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(ArtifactError) as caught, atomic_write(target) as temporary:
        _write_half(temporary, OSError(code, os.strerror(code)))
    message = str(caught.value)
    assert str(target) in message
    assert os.strerror(code) in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        run = disk / "run"
        with Manifest(run, CONFIG) as manifest:
            with atomic_write(manifest.path("small")) as temporary:
                temporary.write_bytes(b"x" * 100)
            manifest.record("small")
            listed = (run / MANIFEST).read_bytes()
            with (
                pytest.raises(ArtifactError, match="No space left on device") as caught,
                atomic_write(manifest.path("large")) as temporary,
            ):
                temporary.write_bytes(b"x" * 200_000)
            assert "\n" not in str(caught.value)
        assert (run / MANIFEST).read_bytes() == listed
        assert not (run / "large").exists()
        assert partials(run) == []
        with Manifest(run, CONFIG) as manifest:
            assert manifest.finished("small")


def test_artifacts_are_finished_once_listed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Manifest(run, CONFIG) as manifest:
        for name in ("paths", "votes"):
            manifest.path(name).write_text(name)
            assert not manifest.finished(name)
        manifest.record("paths", seconds=2.5, notes={"tokens": 7})
        manifest.record("votes", inputs=["paths"])
    with Manifest(run, CONFIG) as manifest:
        assert manifest.finished("paths")
        assert manifest.finished("votes")
        assert manifest.artifact("paths").notes == {"tokens": 7}
        assert manifest.artifact("paths").seconds == 2.5
        # Made again with another content, it makes stale what came from it.
        manifest.path("paths").write_text("other paths")
        manifest.record("paths")
        assert not manifest.finished("votes")
    stored = json.loads((run / MANIFEST).read_text())
    assert stored["config"] == CONFIG
    assert stored["versions"]["torch"]
    assert stored["artifacts"]["paths"]["sha256"] == content_hash(run / "paths")


def test_a_missing_artifact_is_made_again_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    with Manifest(tmp_path / "run", CONFIG) as manifest:
        manifest.path("paths").write_text("paths")
        manifest.record("paths")
        manifest.path("model").mkdir()
        (manifest.path("model") / "weights").write_text("weights")
        manifest.record("model")
    with Manifest(tmp_path / "run", CONFIG) as manifest:
        manifest.path("paths").write_text("pathz")
        with pytest.raises(ArtifactError, match=r"run/paths: damaged.*delete it"):
            manifest.finished("paths")
        manifest.path("paths").unlink()
        assert not manifest.finished("paths")
        (manifest.path("model") / "extra").write_text("")
        with pytest.raises(ArtifactError, match="damaged"):
            manifest.finished("model")


def test_discarding_removes_a_folder_and_its_entries(tmp_path: Path) -> None:
    with Manifest(tmp_path / "run", CONFIG) as manifest:
        manifest.path(".parts").mkdir()
        for name in (".parts/a", ".parts/b", "kept"):
            manifest.path(name).write_text("x")
            manifest.record(name)
        for _ in range(2):
            manifest.discard(".parts")
            assert not manifest.path(".parts").exists()
            assert not manifest.finished(".parts/a")
            assert manifest.finished("kept")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**CONFIG, "seed": 3}, "seed: 0 there, 3 here"),
        ({**CONFIG, "sample": {"paths": 8}}, "sample.paths: 4 there, 8 here"),
        ({**CONFIG, "extra": True}, "extra: None there, True here"),
    ],
)
def test_a_folder_of_another_config_is_refused_by_field(
    tmp_path: Path, config: dict[str, object], words: str
) -> None:
    run = tmp_path / "run"
    with Manifest(run, CONFIG):
        pass
    before = (run / MANIFEST).read_bytes()
    with pytest.raises(ArtifactError, match=words) as caught, Manifest(run, config):
        pass
    assert "\n" not in str(caught.value)
    assert (run / MANIFEST).read_bytes() == before


def test_open_ended_fields_may_change(tmp_path: Path) -> None:
    for rounds in (1, 3):
        with Manifest(tmp_path / "run", {**CONFIG, "rounds": rounds}, open_ended=("rounds",)):
            pass
    assert json.loads((tmp_path / "run" / MANIFEST).read_text())["config"]["rounds"] == 3


def test_foreign_folders_and_files_are_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match=r"not empty.*thesis\.txt"), Manifest(tmp_path, CONFIG):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with (
        pytest.raises(ArtifactError, match="is a file"),
        Manifest(tmp_path / "thesis.txt", CONFIG),
    ):
        pass


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"config": {}}', '{"config": 1, "artifacts": 2}']
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json: damaged"), Manifest(run, CONFIG):
        pass


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        Manifest(tmp_path / "run", CONFIG),
        pytest.raises(ArtifactError, match="another process"),
        Manifest(tmp_path / "run", CONFIG),
    ):
        pass
    with Manifest(tmp_path / "run", CONFIG):
        pass


WRITE_FOREVER = """
import itertools, pathlib, sys
from fastsi.data.manifest import atomic_folder, atomic_write
folder = pathlib.Path(sys.argv[1])
for number in itertools.count(1):
    with atomic_write(folder / "a") as temporary:
        temporary.write_text(str(number) * 5000)
    with atomic_folder(folder / "b") as temporary:
        for name in ("one", "two"):
            (temporary / name).write_text(str(number) * 5000)
"""


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_killed_writer_leaves_whole_files(tmp_path: Path, seed: int) -> None:
    """The reader sees one number throughout a file and throughout a folder."""
    run = tmp_path / "run"
    with Manifest(run, CONFIG):
        pass
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(run)])
    try:
        while not (run / "b").exists():
            assert writer.poll() is None, "the writer stopped by itself"
            time.sleep(0.005)
        time.sleep(random.Random(seed).uniform(0.0, 0.1))
    finally:
        writer.kill()
        writer.wait()
    assert _one_number((run / "a").read_text())
    if (run / "b").exists():  # between the two renames of a replacement there is none
        texts = [(run / "b" / name).read_text() for name in ("one", "two")]
        assert texts[0] == texts[1]
        assert _one_number(texts[0])
    with Manifest(run, CONFIG):
        assert partials(run) == []


def _one_number(text: str) -> bool:
    """Whether ``text`` is some number, repeated 5000 times."""
    digits, rest = divmod(len(text), 5000)
    return rest == 0 and digits > 0 and text == text[:digits] * 5000
