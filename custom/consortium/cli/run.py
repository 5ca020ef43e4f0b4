"""How every command ends: an exit code and, where it failed, one line on stderr.

* 0 done, 1 findings, 2 usage, 3 refused, 4 environment, 130 interrupted.
* A traceback is shown with `--debug` alone, which may stand anywhere on the command line.
"""

import errno
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from consortium.core.errors import ConsortiumError, EnvironmentProblem, UsageError

INTERRUPTED = 130

DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
]
"""For the callback of an application, so that its help shows the option; `run_app` obeys it."""


def run_app(app: typer.Typer, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line application and exits.

    Commands end by returning, by raising `typer.Exit(code)` or a `ConsortiumError`.

    Args:
        app: the application; its name is shown in help, else that of the program.
        argv: arguments without the program's name; those of the process by default.

    Raises:
        SystemExit: always.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    options = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in options
    arguments = [word for word in options if word != "--debug"] + given[len(options) :]
    name = app.info.name if isinstance(app.info.name, str) else None
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Like Ctrl-C, so that whatever was started is ended and what was lent is cleared away.
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
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(result if isinstance(result, int) else 0)


def _readable(raised: Exception) -> ConsortiumError | None:
    """What a person reads about an exception; None where the person broke off a question."""
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
    told = f"{type(raised).__name__}: {raised}" if str(raised) else type(raised).__name__
    return EnvironmentProblem("internal", told, "", "run again with --debug")
