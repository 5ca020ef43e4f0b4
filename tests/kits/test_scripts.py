"""The processes that a kit's scripts start import nothing from where anybody may write."""

import os
import subprocess

import pytest

SHOW = """#!/bin/sh
case "$*" in *nvflare*) env > "$SHOWN"; pwd >> "$SHOWN";; esac
"""


@pytest.fixture
def environment_of(tmp_path):
    """Runs a starting script; returns the environment in which it starts FLARE."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(SHOW)
    python.chmod(0o755)

    def run(script, **variables):
        given = {**os.environ, **variables}
        given = {key: value for key, value in given.items() if value is not None}
        path, shown = f"{python.parent}:{os.environ['PATH']}", tmp_path / "shown"
        subprocess.run(
            [script, "--once"],
            env={**given, "PATH": path, "SHOWN": str(shown)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
        lines = shown.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    return run


@pytest.mark.flare
@pytest.mark.parametrize(
    ("given", "expected"), [(None, None), ("", ""), ("/opt/consortium", "/opt/consortium")]
)
def test_a_kits_processes_search_no_folder_that_the_hospital_did_not_name(
    kit, environment_of, given, expected
):
    shown = environment_of(kit / "startup" / "sub_start.sh", PYTHONPATH=given)
    assert shown.get("PYTHONPATH") == expected
    assert shown["PYTHONSAFEPATH"] == "1"


def test_no_script_of_any_kit_names_a_folder_of_the_machine_for_code(provisioned):
    scripts = list((provisioned / "kits").glob("*/startup/*.sh"))
    assert scripts
    assert not [path for path in scripts if "/local/custom" in path.read_text()]
