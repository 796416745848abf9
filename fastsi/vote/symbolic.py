"""Merges opaque answers that algebra proves equal: ``2\\sqrt{3}`` and ``\\sqrt{12}``.

Off by default, and only for keys of kind ``text``: all others are exact already. The algebra
(math-verify's parser and sympy) may run for ever, so it runs in a process of its own, which is
killed at a time limit; no signals, no fork, any thread. A pair that timed out, crashed its process
or could not be read is not merged. Every key is compared with the first member of each class so
far, in sorted order (shorter first), and joins the first that it equals: classes are disjoint and
do not depend on the order of paths. Its first member names a class.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastsi.errors import ConfigError
from fastsi.vote.kinds import kind_of

PAIR_SECONDS = 2.0
"""Time limit of one comparison."""
GROUP_SECONDS = 30.0
"""Time limit of all comparisons of one question; what is not compared by then is not merged."""
_START_SECONDS = 120.0
_REMEMBERED = 1 << 16
_WORKER = Path(__file__).with_name("_symbolic_worker.py")
_NEEDED = ("math_verify", "latex2sympy2_extended", "sympy")

_Request = tuple[str, ...]
"""``(text,)``: is it an expression; ``(a, b)``: are they equal."""


class SymbolicMerger:
    """A worker process and what it has said so far. Threads may share one.

    Args:
        pair_seconds: time limit of one comparison, in seconds.
        group_seconds: time limit of one call of `merge`, in seconds.

    Raises:
        ConfigError: math-verify is not installed, or a limit is not above 0.
    """

    def __init__(
        self, *, pair_seconds: float = PAIR_SECONDS, group_seconds: float = GROUP_SECONDS
    ) -> None:
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"symbolic=True: needs {', '.join(missing)}; pip install 'fastsi[symbolic]'"
            )
        for name, value in (("pair_seconds", pair_seconds), ("group_seconds", group_seconds)):
            if not value > 0.0:
                raise ConfigError(f"{name}={value!r}: must be a number > 0")
        self._pair_seconds = pair_seconds
        self._group_seconds = group_seconds
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._known: OrderedDict[_Request, bool] = OrderedDict()
        self.kills = 0
        """Workers that were killed at a time limit, or died."""

    def merge(self, keys: Iterable[str | None]) -> dict[str, str]:
        """Key of its class for every opaque key that is not the first of its class.

        Args:
            keys: canonical keys of one question's paths; None and other kinds are left alone.
        """
        opaque = {key for key in keys if key is not None and kind_of(key) == "text"}
        ends = time.monotonic() + self._group_seconds
        firsts: list[str] = []
        merged: dict[str, str] = {}
        for key in sorted(opaque, key=lambda key: (len(key), key)):
            text = _body(key)
            if len(opaque) < 2 or not self._ask((text,), ends):
                continue
            for first in firsts:
                if self._ask((_body(first), text), ends):
                    merged[key] = first
                    break
            else:
                firsts.append(key)
        return merged

    def close(self) -> None:
        """End the worker; the next `merge` starts another."""
        with self._lock:
            self._stop()

    def __enter__(self) -> SymbolicMerger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, request: _Request, ends: float) -> bool:
        """What the worker says; False where it does not say anything in time."""
        with self._lock:
            if request in self._known:
                self._known.move_to_end(request)
                return self._known[request]
            if time.monotonic() >= ends:
                return False  # not remembered: another call may have the time
            found = self._compute(request)
            self._known[request] = found
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return found

    def _compute(self, request: _Request) -> bool:
        if self._worker is not None and self._worker.owner != os.getpid():
            self._worker = None  # this process is a fork; the worker is the other one's
        if self._worker is None:
            self._worker = _Worker()
        try:
            return self._worker.ask(request, self._pair_seconds)
        except (TimeoutError, OSError, ValueError):
            self._stop()
            self.kills += 1
            return False

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
        self._worker = None


class _Worker:
    """One process of `_symbolic_worker`; ``kill`` ends it at once.

    Raises:
        ConfigError: it does not start.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        # Popen starts it by vfork and exec: safe while other threads run, unlike a bare fork.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._buffer = b""
        # Also where nobody closes it, and when this process ends.
        self.kill = weakref.finalize(self, _end, self._process, self.owner)
        try:
            self._line(_START_SECONDS)
        except (TimeoutError, OSError) as error:
            self.kill()
            raise ConfigError(
                f"symbolic=True: the worker process does not start: {error}"
            ) from None

    def ask(self, request: _Request, seconds: float) -> bool:
        """Its answer.

        Raises:
            TimeoutError: none came in time.
            OSError: the process has died.
        """
        what = {"read": request[0]} if len(request) == 1 else {"equal": request}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        return json.loads(self._line(seconds)) is True

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        ends = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, ends - time.monotonic())):
                    raise TimeoutError(f"no answer in {seconds:g} s")
                read = os.read(self._process.stdout.fileno(), 1 << 16)
                if not read:
                    raise OSError(f"it ended with code {self._process.wait()}")
                self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the process that started it
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


_shared: SymbolicMerger | None = None
_shared_lock = threading.Lock()


def shared_merger() -> SymbolicMerger:
    """The merger that ``symbolic=True`` means; made at the first use.

    Raises:
        ConfigError: math-verify is not installed.
    """
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = SymbolicMerger()
        return _shared


def merged_keys(
    keys: Sequence[str | None], merger: SymbolicMerger | None = None
) -> list[str | None]:
    """Keys with each opaque one replaced by the first of its class.

    Raises:
        ConfigError: math-verify is not installed.
    """
    names = (shared_merger() if merger is None else merger).merge(keys)
    return [None if key is None else names.get(key, key) for key in keys]


def _body(key: str) -> str:
    return key.partition(":")[2]
