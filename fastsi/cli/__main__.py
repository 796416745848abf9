"""Entry point: runs a command and turns every expected failure into one line and an exit code.

Exit codes: 0 done, 2 bad input or environment (one line on standard error), 130 interrupted. Any
other failure is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fastsi import __version__
from fastsi.cli import _demo, _env, _eval, _improve, _report, _sample, _vote
from fastsi.cli._config import config_file
from fastsi.errors import FastsiError

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="fastsi",
    help="Make a language model better at reasoning without labels: sample, vote, select, "
    "fine-tune, repeat.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _module in (_demo, _sample, _vote, _improve, _eval, _report, _env):
    app.command(_module.NAME, help=_module.HELP)(_module.command)


@app.callback()
def _global_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code.

    Args:
        arguments: words after the program's name; None: those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")  # bars of libraries are for terminals
    try:
        code = app(args=words, prog_name="fastsi", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except FastsiError as error:
        return _fail(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}")
    except Exception as error:
        if not hasattr(error, "format_message"):  # what the option parser raises has it
            raise
        # Without any words the parser has printed the help, and has nothing to say.
        return _fail(_usage(error, words)) if error.format_message() else 2
    if code == _INTERRUPTED:
        _fail("interrupted; run the same command again to go on")
        return _INTERRUPTED
    return code if isinstance(code, int) else 0


def _usage(error: Any, words: list[str]) -> str:
    """A parser's message, with the value that was given and the file it came from."""
    message = f"{error.format_message()}".strip().removesuffix(".")
    option = getattr(error, "param", None)
    if option is None:
        return f"{message} (try --help)"
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in option.opts:
            return (
                f"{message} (got {value if equals else ' '.join(words[place + 1 : place + 2])!r})"
            )
    defaults = getattr(error.ctx, "default_map", None) or {}
    if option.name in defaults:
        return f"{config_file(error.ctx)}: {message} (got {defaults[option.name]!r})"
    return f"{message} (try --help)"


def _fail(message: str) -> int:
    sys.stdout.flush()
    print("error: " + " ".join(message.splitlines()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
