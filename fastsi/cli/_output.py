"""What a command prints: tables for people, or exactly one JSON object with ``--json``.

Remarks and progress go to standard error. With ``--json`` whatever a library prints does too,
so that standard output holds the object and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table


class Output:
    """Where one command's results and progress go."""

    def __init__(self, stdout: TextIO, json_mode: bool) -> None:
        self._stdout = stdout
        self.json_mode = json_mode

    def table(self, table: Table) -> None:
        """Show a table to people; nothing with ``--json``."""
        if not self.json_mode:
            console = Console(file=self._stdout)
            if not console.is_terminal:
                console.width = 120  # a file or a pipe has no width to fit
            # Rich folds a table's own title to the width of its columns.
            console.print(table.title or "", style="bold", markup=False, highlight=False)
            table.title = None
            console.print(table)
            console.print()

    def line(self, text: str) -> None:
        """Show a line to people; nothing with ``--json``. Long lines are not wrapped."""
        if not self.json_mode:
            print(text, file=self._stdout)

    def note(self, text: str) -> None:
        """A remark on standard error."""
        print(text, file=sys.stderr)

    def record(self, record: Mapping[str, Any]) -> None:
        """Print the command's JSON object; nothing without ``--json``."""
        if self.json_mode:
            print(json.dumps(plain(record), ensure_ascii=False), file=self._stdout, flush=True)


@contextlib.contextmanager
def output(json_mode: bool) -> Iterator[Output]:
    """The command's output; with ``json_mode`` other writers of standard output are sent away."""
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if json_mode else contextlib.nullcontext():
        yield Output(stdout, json_mode)


def plain(value: Any) -> Any:
    """A copy fit for JSON: mappings, lists, strings, finite numbers, None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def key_value_table(title: str, rows: Mapping[str, object]) -> Table:
    """Two columns, name and value."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table
