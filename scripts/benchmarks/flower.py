"""Flower in an environment of its own: `.bench/flower` in the checkout, made where missing."""

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
        script: name of its file.
        arguments: of it.
        patience: seconds.

    Returns:
        What the last line that it prints says as JSON.

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
        told = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise EnvironmentProblem("no-flower", told, script, "see Flower's documentation")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _python() -> Path:
    place = ROOT / ".bench" / "flower"
    python = place / "bin" / "python"
    if not (place / "installed").is_file():
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", _PACKAGE], check=True)
        (place / "installed").write_text(_PACKAGE, encoding="utf-8")
    return python
