"""Settings of a command: its defaults, under a TOML file's, under the command line's.

A file given with ``--config`` holds a command's options by name and the tables that the command
takes, such as ``[sample]`` or ``[train]``. ``--set table.name=value`` changes one entry of a table;
the value is written as in TOML. Options such as ``--paths`` are short names of such entries.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import typer

from fastsi.errors import ConfigError
from fastsi.types import check_known

T = TypeVar("T")
Tables = dict[str, dict[str, Any]]
"""Settings by table; those outside every table under the empty name."""

_FILE = "fastsi.config.file"
_TABLES = "fastsi.config.tables"
_NOT_SETTINGS = ("config", "help", "as_json", "settings")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        ConfigError: missing, unreadable, or not TOML; the message has the file and the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def config_option(*tables: str, loose: Iterable[str] = ()) -> Any:
    """The ``--config`` option of a command that takes these tables.

    Args:
        tables: names of tables.
        loose: settings outside every table that are no options of the command.
    """
    loose = tuple(loose)

    def callback(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            _apply(context, path, tables, loose)
        return path

    kinds = ", ".join(tables)
    return typer.Option(
        "--config",
        help="TOML file with options by name" + (f" and the tables {kinds}." if tables else "."),
        callback=callback,
        is_eager=True,
        show_default="none",
        metavar="FILE",
    )


def set_option(*tables: str) -> Any:
    """The ``--set`` option of a command that takes these tables."""
    return typer.Option(
        "--set",
        help=f"One setting of a table, over the file's: {tables[0]}.NAME=VALUE, VALUE as in TOML; "
        f"tables: {', '.join(tables)}. Repeat for more.",
        show_default="none",
        metavar="TABLE.NAME=VALUE",
    )


def merge(
    context: typer.Context,
    assignments: Iterable[str],
    options: Mapping[str, object],
    *,
    tables: Iterable[str],
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Tables:
    """Tables of settings from defaults, file, ``--set`` and options, the later over the earlier.

    Args:
        context: of the running command.
        assignments: values of ``--set``.
        options: dotted setting ("sample.paths", or "seed" outside tables) to the option's value,
            None where it was not given.
        tables: names of the command's tables.
        defaults: the command's own defaults.

    Raises:
        ConfigError: an assignment is malformed or names an unknown table.
    """
    merged: Tables = {name: dict(values) for name, values in (defaults or {}).items()}
    for name, values in context.meta.get(_TABLES, {}).items():
        merged.setdefault(name, {}).update(values)
    for assignment in assignments:
        table, name, value = _assignment(assignment)
        check_known([table], tables, "table of --set")
        merged.setdefault(table, {})[name] = value
    for dotted, value in options.items():
        if value is not None:
            table, _, name = dotted.rpartition(".")
            merged.setdefault(table, {})[name] = value
    return merged


def build(context: typer.Context, make: Callable[[Tables], T], tables: Tables) -> T:
    """``make(tables)``, with the config file named in the error where the file is at fault.

    Raises:
        ConfigError: what ``make`` refuses.
    """
    try:
        return make(tables)
    except ConfigError as error:
        path = context.meta.get(_FILE)
        if path is None:
            raise
        try:
            make({name: dict(values) for name, values in context.meta[_TABLES].items()})
        except ConfigError as fault:
            raise ConfigError(f"{path}: {fault}") from None
        raise error from None


def config_file(context: Any) -> Path | None:
    """The file given with ``--config`` to the command of this context."""
    path = context.meta.get(_FILE)
    return path if isinstance(path, Path) else None


def _apply(
    context: typer.Context, path: Path, tables: tuple[str, ...], loose: tuple[str, ...]
) -> None:
    values = {key.replace("-", "_"): value for key, value in read_toml(path).items()}
    options = [str(option.name) for option in context.command.params]
    options = [name for name in options if name not in _NOT_SETTINGS]
    try:
        check_known(values, [*options, *loose, *tables], "key")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    found: Tables = {}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) != (key in tables):
            kind = "a table" if key in tables else "a value, not a table"
            raise ConfigError(f"{path}: {key}={value!r}: must be {kind}")
        if key in tables:
            found[key] = value
        elif key in loose:
            found.setdefault("", {})[key] = value
        else:
            defaults[key] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    context.meta[_FILE] = path
    context.meta[_TABLES] = found


def _assignment(text: str) -> tuple[str, str, Any]:
    dotted, equals, value = text.partition("=")
    table, dot, name = dotted.strip().replace("-", "_").partition(".")
    if not (equals and dot and table and name):
        raise ConfigError(f"--set {text!r}: must be TABLE.NAME=VALUE")
    try:
        return table, name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # A bare word is a string: --set prompt.style=chat needs no quotes inside quotes.
        return table, name, value.strip()
