"""The report of a run: one HTML file with figures and tables, without external resources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastsi.errors import ConfigError

_INSTALL = "the report needs matplotlib and jinja2: pip install 'fastsi[report]'"


def write(run: Path, out: Path | None = None, *, examples: int = 6) -> Path:
    """Write the report of a run folder.

    Args:
        run: folder of ``fastsi improve`` or ``fastsi demo``.
        out: HTML file, replaced if it is there; None: ``report.html`` in the run folder.
        examples: example questions to show.

    Returns:
        The file.

    Raises:
        ArtifactError: no run folder, a damaged one, or ``out`` cannot be written.
        ConfigError: matplotlib or jinja2 is not installed.
    """
    from fastsi.cli._runs import locate
    from fastsi.data.manifest import atomic_write

    folder = locate(run)
    out = out or folder / "report.html"
    try:
        from fastsi.cli.report.page import render
    except ImportError as error:
        raise ConfigError(f"{_INSTALL} ({error})") from None
    text = render(folder, examples)
    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def write_if_possible(run: Path, note: Callable[[str], None]) -> str | None:
    """Write ``run/report.html``; without the packages for it, say so and return None.

    Raises:
        ArtifactError: as `write`.
    """
    try:
        return str(write(run))
    except ConfigError as error:
        note(f"no report: {error}")
        return None
