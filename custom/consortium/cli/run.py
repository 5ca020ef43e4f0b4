"""Runs a command and ends it with an exit code and, if it failed, one line on stderr.

* 0 done, 1 findings, 2 usage, 3 refused, 4 environment, 130 interrupted.
* A traceback is shown only with `--debug`, anywhere on the command line.
"""

import errno
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from consortium.cli.terminal import say
from consortium.core.errors import ConsortiumError, EnvironmentProblem, UsageError

INTERRUPTED = 130

DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
"""Parameter of a command, so that its help shows the option; `run_app` handles it."""
SmallestTraining = Annotated[
    int,
    typer.Option(
        help="Hospitals with fewer training patients take no part, and no update of fewer leaves."
        " Lower it for public or generated data only.",
        min=1,
    ),
]
"""Parameter of the commands that start hospitals on this machine."""


def run_app(app: typer.Typer, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line application and exits.

    Commands end by returning, by raising `typer.Exit(code)` or a `ConsortiumError`.

    Args:
        app: the application; help shows its name, or else the program's.
        argv: arguments without the program's name; by default those of the process.

    Raises:
        SystemExit: always.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    options = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in options
    arguments = [word for word in options if word != "--debug"] + given[len(options) :]
    name = app.info.name if isinstance(app.info.name, str) else None
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Like Ctrl-C, so that started processes are ended and temporary files are removed.
        signal.signal(number, signal.default_int_handler)
    try:
        result = typer.main.get_command(app).main(arguments, name, standalone_mode=False)
    except KeyboardInterrupt:
        result = INTERRUPTED
    except Exception as raised:
        error = _readable(raised)
        if error is None:
            sys.exit(INTERRUPTED)
        if debug:
            traceback.print_exception(raised)
        say(error, error=True)
        sys.exit(error.exit_code)
    sys.exit(result if isinstance(result, int) else 0)


def _readable(raised: Exception) -> ConsortiumError | None:
    """Turns an exception into a readable error; None if the user cancelled a prompt."""
    if isinstance(raised, ConsortiumError):
        return raised
    if isinstance(raised, typer.Abort):
        return None
    if isinstance(raised, typer.TyperException):
        context = getattr(raised, "ctx", None)
        command = context.command_path if context else ""
        message = raised.format_message().rstrip(".")
        return UsageError("usage", message, "", f"see {command} --help" if command else "")
    if isinstance(raised, OSError) and raised.errno in (errno.ENOSPC, errno.EDQUOT):
        where = str(raised.filename or "")
        return EnvironmentProblem("disk-full", "no space left", where, "free some space")
    message = f"{type(raised).__name__}: {raised}" if str(raised) else type(raised).__name__
    return EnvironmentProblem("internal", message, "", "run again with --debug")
