"""Builds of C++ during the tests, which use every core and much memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def one_build_at_a_time() -> Iterator[None]:
    """Wait until no other test process of this user builds."""
    path = Path(tempfile.gettempdir()) / f"fastsi-tests-build-{os.getuid()}.lock"
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a kill
        yield
