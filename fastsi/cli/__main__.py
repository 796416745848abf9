"""Entry point: runs a command and turns every expected failure into one line and an exit code.

Exit codes: 0 done, 2 bad input or environment (one line on standard error), 130 interrupted. Any
other failure is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from fastsi import __version__
from fastsi.cli import _demo, _env, _eval, _improve, _report, _sample, _vote
from fastsi.errors import FastsiError

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
def _options(
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
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")  # bars of libraries are for terminals
    try:
        code = app(args=arguments, prog_name="fastsi", standalone_mode=False)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on", 130)
    except FastsiError as error:
        return _fail(str(error), 2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", 2)
    except typer.Abort:
        return _fail("interrupted; run the same command again to go on", 130)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # what the option parser raises
        if usage is None:
            raise
        return _fail(f"{usage()} (try --help)" if usage() else "no command given", 2)
    if code == 130:
        return _fail("interrupted; run the same command again to go on", 130)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
