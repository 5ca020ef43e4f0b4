import pytest

from consortium.cli.main import app
from consortium.cli.run import run_app


@pytest.fixture
def consortium(capsys):
    """Runs the command in this process; returns its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_app(app, [str(argument) for argument in arguments])
        return (ended.value.code, *capsys.readouterr())

    return run
