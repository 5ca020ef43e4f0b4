"""What a hospital remembers over all runs."""

import json
import subprocess
import sys

import pytest

from consortium.core.errors import EnvironmentProblem
from consortium.core.site_record import fingerprint, open_record

COUNT = """
import sys
from pathlib import Path
from consortium.core.site_record import open_record
for _ in range(20):
    with open_record(Path(sys.argv[1]), "count") as record:
        record["number"] = record.get("number", 0) + 1
"""


def test_processes_use_it_one_at_a_time(tmp_path):
    command = [sys.executable, "-c", COUNT, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    with open_record(tmp_path, "count") as record:
        assert record["number"] == 60


def test_nothing_is_saved_of_what_fails(tmp_path):
    with open_record(tmp_path, "count") as record:
        record["number"] = 1

    def fail():
        with open_record(tmp_path, "count") as record:
            record["number"] = 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert json.loads((tmp_path / "count.json").read_text())["number"] == 1


def test_each_record_has_a_salt_of_its_own(tmp_path):
    prints = []
    for name in ("a", "b"):
        for _ in range(2):
            with open_record(tmp_path, name) as record:
                prints.append(fingerprint(record, "P1", "63"))
    assert prints[0] == prints[1]
    assert prints[2] == prints[3]
    assert prints[0] != prints[2]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\x00"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "count.json").write_text(content)
    with (
        pytest.raises(EnvironmentProblem, match="damaged-record"),
        open_record(tmp_path, "count"),
    ):
        pass
    assert (tmp_path / "count.json").read_text() == content


def test_a_folder_that_cannot_be_written_is_a_problem_of_the_machine(tmp_path):
    (tmp_path / "home").write_text("a file")
    with (
        pytest.raises(EnvironmentProblem, match="cannot-write"),
        open_record(tmp_path / "home", "count"),
    ):
        pass
