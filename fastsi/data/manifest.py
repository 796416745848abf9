"""Run folders: atomic writes, content hashes, and the manifest that says what is finished.

Everything is written under a temporary name in the folder it will live in, flushed to disk, and
renamed, so a reader sees a whole artifact or none. A phase is finished when ``manifest.json`` lists
its artifact; the manifest itself is written last and the same way. A process killed between the two
renames leaves an unlisted artifact, which the next run makes again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsi.errors import ArtifactError, shorten

MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_LOCK = ".lock"
_PACKAGES = ("fastsi", "torch", "transformers", "accelerate", "numpy", "pyarrow")


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary file name beside ``path``; rename it to ``path`` if the body succeeds.

    The body must create the temporary file. On any exception the temporary file is removed and
    ``path`` is as it was.

    Raises:
        ArtifactError: the file system refused (disk full, no permission); one line, with the file.
    """
    path = Path(path)
    with _explain(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_name(path)
        try:
            yield temporary
            _fsync(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """The same for a folder: the body fills a temporary folder, which then replaces ``path``.

    Renaming over a folder that is not empty is impossible, so an old ``path`` is moved aside first
    and deleted last; a kill in between leaves no ``path``, and the caller's manifest says whether
    it had been finished.

    Raises:
        ArtifactError: the file system refused.
    """
    path = Path(path)
    with _explain(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_name(path)
        temporary.mkdir()
        try:
            yield temporary
            for folder, _, files in os.walk(temporary):
                for name in files:
                    _fsync(Path(folder, name))
                _fsync(Path(folder))
            if path.exists():
                old = _temporary_name(path)
                os.replace(path, old)
                os.replace(temporary, path)
                shutil.rmtree(old)
            else:
                os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _fsync(path.parent)


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, or of the names and hashes of all files under a folder."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file_path.relative_to(path).as_posix()
        digest.update(f"{name}\0{content_hash(file_path)}\n".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One finished file or folder of a run."""

    sha256: str
    """Content hash."""
    inputs: Mapping[str, str]
    """Content hash of each artifact it was made from, by name."""
    seconds: float
    """Wall time of the work."""
    notes: Mapping[str, Any]
    """Numbers worth keeping, such as tokens sampled."""


class Manifest:
    """The artifacts of one run folder.

    Use as a context manager: the folder is locked against a second process for its lifetime.

    Args:
        folder: the run folder, made if missing.
        config: everything that decides the result, as JSON values; a folder of another config is
            refused.
        open_ended: top-level names of ``config`` that may differ between resumed runs, such as
            the number of rounds.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        open_ended: Iterable[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self._config: dict[str, Any] = json.loads(json.dumps(config))
        self._open_ended = frozenset(open_ended)
        self._artifacts: dict[str, Artifact] = {}
        self._checked: set[str] = set()
        self._lock: int | None = None

    def __enter__(self) -> Manifest:
        with _explain(self.folder):
            if self.folder.exists() and not self.folder.is_dir():
                raise ArtifactError(f"{self.folder}: is a file; give a folder for the run")
            self._refuse_foreign()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_folder(self.folder)
        try:
            self._load()
            _remove_partials(self.folder)
            self._save()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, name: str) -> Path:
        """Where the artifact ``name`` (relative, with slashes) lives."""
        return self.folder / name

    def finished(self, name: str) -> bool:
        """Whether ``name`` is listed, present, whole, and made from the inputs now listed.

        Raises:
            ArtifactError: it is listed and present, but its content is not what was written.
        """
        artifact = self._artifacts.get(name)
        if artifact is None or not self.path(name).exists():
            return False
        for source, sha256 in artifact.inputs.items():
            if source not in self._artifacts or self._artifacts[source].sha256 != sha256:
                return False
        if name not in self._checked:
            found = content_hash(self.path(name))
            if found != artifact.sha256:
                raise ArtifactError(
                    f"{self.path(name)}: damaged: content hash {found[:12]} is not the recorded "
                    f"{artifact.sha256[:12]}; delete it to have it made again"
                )
            self._checked.add(name)
        return True

    def record(
        self,
        name: str,
        *,
        inputs: Iterable[str] = (),
        seconds: float = 0.0,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """List the artifact ``name``, which must be on disk, and save the manifest.

        Raises:
            ArtifactError: the manifest cannot be written.
        """
        self._artifacts[name] = Artifact(
            sha256=content_hash(self.path(name)),
            inputs={source: self._artifacts[source].sha256 for source in inputs},
            seconds=seconds,
            notes=dict(notes or {}),
        )
        self._checked.add(name)
        self._save()

    def discard(self, folder: str) -> None:
        """Unlist everything below ``folder``, save, and only then delete the folder.

        Doing it again is harmless, so a discard that a kill cut short is repeated on resume.
        """
        names = [name for name in self._artifacts if name.startswith(f"{folder}/")]
        for name in names:
            del self._artifacts[name]
            self._checked.discard(name)
        if names:
            self._save()
        with _explain(self.path(folder)):
            if self.path(folder).exists():
                shutil.rmtree(self.path(folder))

    def artifact(self, name: str) -> Artifact:
        """The record of a finished artifact."""
        return self._artifacts[name]

    def _refuse_foreign(self) -> None:
        """Never write into a folder that somebody else filled."""
        if not self.folder.exists() or (self.folder / MANIFEST).exists():
            return
        names = [p.name for p in self.folder.iterdir() if not p.name.startswith(".")]
        if names:
            raise ArtifactError(
                f"{self.folder}: not empty and without {MANIFEST} (it has {shorten(min(names))}); "
                "give a new folder"
            )

    def _load(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            config = stored["config"]
            self._artifacts = {n: Artifact(**entry) for n, entry in stored["artifacts"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: damaged manifest: {error}; give a new folder") from error
        differing = _differences(self._closed(config), self._closed(self._config))
        if differing:
            raise ArtifactError(
                f"{self.folder}: belongs to a run with another config: "
                + "; ".join(differing)
                + "; give a new folder, or the same settings to resume"
            )

    def _closed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: v for name, v in config.items() if name not in self._open_ended}

    def _save(self) -> None:
        content = {
            "config": self._config,
            "versions": versions(),
            "artifacts": {n: dataclasses.asdict(a) for n, a in sorted(self._artifacts.items())},
        }
        with atomic_write(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _differences(old: object, new: object, name: str = "") -> list[str]:
    """One "name: old there, new here" per leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            inner = f"{name}.{key}" if name else key
            lines += _differences(old.get(key), new.get(key), inner)
        return lines
    if old == new:
        return []
    return [f"{name}: {shorten(old, 40)} there, {shorten(new, 40)} here"]


def _lock_folder(folder: Path) -> int:
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise ArtifactError(f"{folder}: another process is working in this folder") from error
    return handle


def _remove_partials(folder: Path) -> None:
    """Delete what a killed process left under temporary names; the lock is held."""
    for path in folder.rglob(f".*{_PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Turn the file system's refusals into one line for people."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot write: {error.strerror or error}; finished work is kept, "
            "run the same command again when it can"
        ) from error


def _temporary_name(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}"


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
