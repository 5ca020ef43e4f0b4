"""Runs Flower in its own environment: `.bench/flower` in the checkout, made if missing."""

import json
import subprocess
import venv
from pathlib import Path
from typing import Any

from scripts.benchmarks.lgg import ROOT

from consortium.core.errors import EnvironmentProblem

_PACKAGE = "flwr[simulation]==1.42.0"


def run_in_flower(script: str, *arguments: str, patience: float) -> Any:
    """Runs a script of this folder in Flower's environment.

    Args:
        script: its file name.
        arguments: its arguments.
        patience: timeout in seconds.

    Returns:
        The last line of its output, parsed as JSON.

    Raises:
        EnvironmentProblem: `no-flower`.
    """
    done = subprocess.run(
        [str(_python()), str(Path(__file__).with_name(script)), *arguments],
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no error message"])[-1]
        raise EnvironmentProblem("no-flower", last, script, "see Flower's documentation")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _python() -> Path:
    folder = ROOT / ".bench" / "flower"
    python = folder / "bin" / "python"
    if not (folder / "installed").is_file():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", _PACKAGE], check=True)
        (folder / "installed").write_text(_PACKAGE, encoding="utf-8")
    return python
