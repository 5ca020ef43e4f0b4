"""The guides in `docs/`, run as they are written: coordinator, two hospitals, a researcher.

In a copy of the checkout, in its order. Changed are only what every reader changes too (the
fingerprint, the folder of the data, the job, the run) and the port, so that a federation that runs
on this machine does not disturb.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from tests.conftest import ROOT, TINY
from tests.flare.conftest import OPEN, processes_in

from consortium.core.files import write_json
from consortium.kits.hospital import HOSPITAL
from consortium.runs.federation import free_port

pytestmark = pytest.mark.flare

PACKAGE = ROOT / "custom" / "consortium"
HOSPITALS = ["north", "harbour"]
RESEARCHER = "researcher@north.example"


def guide(reader):
    """The lines of the block of commands that follows `**Reader**` in the reader's document."""
    text = (ROOT / "docs" / f"{reader.lower()}.md").read_text()
    return text.split(f"**{reader}**", 1)[1].split("```\n", 2)[1].splitlines()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout whose project has a free port; all that runs in it is ended."""
    copy = tmp_path_factory.mktemp("guides") / "consortium"
    kept = ("custom", "jobs", "provisioning", "scripts")
    for name in kept:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    project = copy / "provisioning" / "project.yml"
    project.write_text(project.read_text().replace("8002", str(free_port())))
    try:
        yield copy
    finally:
        for number in processes_in(copy):
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(number).kill()


@pytest.fixture(scope="module")
def type_in(checkout):
    """Types a line of a guide into a shell and returns what it prints."""

    def run(line, again=True):
        path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        # Into a file: started processes still print after their command has ended.
        with tempfile.TemporaryFile("w+") as printed:
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=checkout,
                env={**os.environ, "PATH": path, "HOME": str(checkout.parent), "COLUMNS": "300"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                timeout=120,
                check=False,
            )
            printed.seek(0)
            output = printed.read()
        if done.returncode == 4 and line.startswith("nvflare ") and again:
            # FLARE's command sometimes fails to work with the orchestrator; a person repeats it.
            return run(line, again=False)
        if done.returncode:
            pytest.fail(f"{line} ended with {done.returncode}:\n{output}")
        return output

    return run


def test_the_guides_lead_from_a_checkout_to_a_result(checkout, type_in, generated):
    printed = [type_in(line) for line in guide("Coordinator")]
    [wheel] = (checkout / "dist").glob("consortium-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    shipped = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".j2")]
    assert {f"consortium/{path.relative_to(PACKAGE)}" for path in shipped} <= packed
    assert re.search(r"steward@fen\.example .* 3\d\d", printed[-1])
    [fingerprint] = set(
        re.findall(r"fingerprint of the root.*\n +([0-9a-f]{64})", "".join(printed))
    )
    type_in("coordinator/kits/orchestrator/startup/start.sh")

    for hospital in HOSPITALS:
        shutil.copytree(checkout / "coordinator" / "kits" / hospital, checkout / hospital)
        data = str(generated / hospital)
        write_json(checkout / hospital / HOSPITAL, {"data": data, **OPEN})
        for line in guide("Hospital"):
            line = line.replace("FINGERPRINT", fingerprint).replace("/srv/tumours", data)
            type_in(re.sub(r"\bnorth\b(?!\.)", hospital, line) if data not in line else line)

    shutil.copytree(checkout / "coordinator" / "kits" / RESEARCHER, checkout / RESEARCHER)
    text = (ROOT / "docs" / "researcher.md").read_text()
    export = re.search(
        r"`(scripts/export-job tumor_segmentation OUT --configuration-only[^`]*)`", text
    )
    tiny = "".join(f" --set {word}" for word in TINY)
    type_in(" ".join(export[1].split()).replace("OUT", "job") + tiny)
    job_id = ""
    for line in guide("Researcher"):
        line = line.replace("/absolute/path/of/the/job", str(checkout / "job"))
        if line.startswith("nvflare job download"):
            status = f"consortium status {job_id} --kit {RESEARCHER}"
            deadline = time.monotonic() + 120
            while "finished" not in type_in(status):
                assert time.monotonic() < deadline, type_in(
                    f"consortium explain {job_id} --kit {RESEARCHER}"
                )
                time.sleep(1)
        printed = type_in(line.replace("RUN", job_id))
        if line.startswith("nvflare job submit"):
            job_id = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", printed)[0]
    [result] = Path(checkout).glob(f"**/{job_id}/workspace/consortium/result.json")
    assert json.loads(result.read_text())["complete"]
