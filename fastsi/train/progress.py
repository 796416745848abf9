"""Progress of long phases on standard error; silent where nobody watches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int, str], None]
"""Called with (units done since the last call, a short note)."""


class Reporter:
    """Shows one bar per phase.

    Args:
        enabled: False: never show anything; True: show if standard error is a terminal.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._console = Console(stderr=True)
        self._shown = enabled and self._console.is_terminal

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None, done: int = 0) -> Iterator[Advance]:
        """A bar of ``total`` units (None: unknown), ``done`` of them finished by an earlier run."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console, disable=not self._shown) as bar:
            task = bar.add_task(name, total=total, completed=done, note="")
            yield lambda units, note: bar.update(task, advance=units, note=note)
