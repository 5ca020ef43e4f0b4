import errno
from pathlib import Path

import pytest

from consortium.errors import EnvironmentProblem, Refused
from consortium.orchestration.journal import Entry, Journal
from consortium.orchestration.records import Refusal, RoundRecord

RECORD = RoundRecord(
    round=0,
    base_sha256="a",
    asked=["north"],
    answered=["north"],
    refused=[Refusal("west", "w", "not-finite")],
    result_sha256="b",
)


def entry(number, best):
    return Entry(
        run="run",
        settings={"rounds": 3},
        records=[RECORD],
        selection={"best_model": 0},
        model=f"model-{number}.safetensors",
        model_sha256="b",
        best=f"model-{best}.safetensors",
        start="model-0.safetensors",
    )


def files(*numbers):
    return {
        f"model-{number}.safetensors": lambda path, number=number: (
            path.write_text(str(number)) and None
        )
        for number in numbers
    }


def test_an_entry_is_read_back(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert journal.read() is None
    journal.write(entry(1, 0), files(0, 1))
    assert journal.read() == entry(1, 0)


def test_only_the_last_the_best_and_the_first_model_are_kept(tmp_path):
    journal = Journal(tmp_path)
    journal.write(entry(1, 1), files(0, 1))
    journal.write(entry(2, 1), files(2))
    journal.write(entry(3, 3), files(3))
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert names == {"model-0.safetensors", "model-3.safetensors"}


def test_a_full_disk_leaves_the_last_round_as_it_was(tmp_path):
    def fill(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path)
    journal.write(entry(1, 1), files(0, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(EnvironmentProblem, match="error disk-full: No space left on device"):
        journal.write(entry(2, 1), {"model-2.safetensors": fill})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert journal.read() == entry(1, 1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": "x"}', '{"records": [{}]}'])
def test_a_journal_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "journal.json").write_text(content)
    with pytest.raises(Refused, match="bad-journal"):
        Journal(tmp_path).read()
