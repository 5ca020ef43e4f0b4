"""What survives a kill of the orchestrator.

After each round: the model, the best model, the records and the selection's state.

What always holds: `journal.json` names files that were complete before it was renamed into place,
so the last good round is always there; files it no longer names are removed after that.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consortium.errors import Refused
from consortium.files import replace_file, write_json
from consortium.orchestration.records import RoundRecord


@dataclass(slots=True)
class Entry:
    """The state of a run after a round.

    Attributes:
        run: id of the run.
        settings: the job's settings; a run is resumed with the same or not at all.
        records: of all rounds so far.
        selection: state of `Selection`.
        model: file name of the model that the next round starts from.
        model_sha256: its digest.
        best: file name of the best model, the same file where it is the last one.
        start: file name of the model that the first round started from.
        more: file names of what else the next round needs, by what they hold.
        stopped_early: whether the selection has ended the run.
    """

    run: str
    settings: dict[str, Any]
    records: list[RoundRecord]
    selection: dict[str, Any]
    model: str = ""
    model_sha256: str = ""
    best: str = ""
    start: str = ""
    more: dict[str, str] = field(default_factory=dict)
    stopped_early: bool = False


class Journal:
    """A folder that holds one run's state.

    Args:
        folder: is created when the first entry is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._index = folder / "journal.json"

    def write(self, entry: Entry, models: Mapping[str, Callable[[Path], object]]) -> None:
        """Writes an entry atomically.

        Args:
            entry: names its models by file name.
            models: how to fill each file that is not there yet, by file name.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; the last entry stands.
        """
        for name, write in models.items():
            replace_file(self.folder / name, write)
        write_json(
            self._index,
            {
                "run": entry.run,
                "settings": entry.settings,
                "records": [record.to_dict() for record in entry.records],
                "selection": entry.selection,
                "model": entry.model,
                "model_sha256": entry.model_sha256,
                "best": entry.best,
                "start": entry.start,
                "more": entry.more,
                "stopped_early": entry.stopped_early,
            },
        )
        named = {entry.model, entry.best, entry.start, *entry.more.values()}
        for stale in (*self.folder.glob("*.safetensors"), *self.folder.glob(".*.partial")):
            if stale.name not in named:
                stale.unlink()

    def read(self) -> Entry | None:
        """The last entry, or None where nothing was written.

        Raises:
            Refused: `bad-journal`, where the file is no journal.
        """
        try:
            raw = json.loads(self._index.read_text(encoding="utf-8"))
            raw["records"] = [RoundRecord.from_dict(record) for record in raw["records"]]
            return Entry(**raw)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            raise Refused(
                "bad-journal",
                "the journal of the run cannot be read",
                str(self._index),
                "start the run in a new workspace",
            ) from None
