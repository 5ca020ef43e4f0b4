"""What survives a kill of the orchestrator.

After each round a checkpoint: the model, the best model, the records and the selection's state.

What always holds: a checkpoint names files that were complete before it was renamed into place,
with their checksums and its own. The last two checkpoints are kept, so that where the last one is
damaged the round before it is still there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from consortium.core.errors import Refused
from consortium.core.files import replace_file, write_json
from consortium.orchestration.records import RoundRecord


@dataclass(slots=True)
class Checkpoint:
    """The state of a run after a round.

    Attributes:
        run: id of the run.
        settings: the job's settings; a run is resumed with the same, but for the rounds.
        records: of all rounds so far.
        selection: state of `Selection`.
        model: file name of the model that the next round starts from.
        model_sha256: its digest.
        best: file name of the best model, the same file where it is the last one.
        start: file name of the model that the first round started from.
        more: file names of what else the next round needs, by what they hold.
        averaged: models in the sums of the average, where there is one.
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
    averaged: int = 0
    stopped_early: bool = False

    @property
    def files(self) -> set[str]:
        """Names of all files that it needs."""
        return {self.model, self.best, self.start, *self.more.values()}


class CheckpointStore:
    """A folder that holds one run's state.

    Args:
        folder: is created when the first checkpoint is written.

    Attributes:
        notes: what `read` found wrong, in words.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.notes: list[str] = []
        self._sums: dict[str, str] = {}

    def keep(self, name: str, write: Callable[[Path], object]) -> None:
        """Writes a file that the next checkpoint names.

        Args:
            name: of the file.
            write: fills it, given its path.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; the last checkpoint stands.
        """
        replace_file(self.folder / name, write)
        self._sums[name] = _sha256(self.folder / name)

    def write(self, checkpoint: Checkpoint, models: Mapping[str, Callable[[Path], object]]) -> None:
        """Writes a checkpoint atomically.

        Args:
            checkpoint: names its models by file name.
            models: how to fill each file that is not there yet, by file name.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; the last checkpoint stands.
        """
        for name, write in models.items():
            self.keep(name, write)
        sums = {name: self._sums[name] for name in sorted(checkpoint.files)}
        content = {**asdict(checkpoint), "sums": sums}
        content["records"] = [record.to_dict() for record in checkpoint.records]
        write_json(self._path(len(checkpoint.records)), {**content, "sha256": _seal(content)})
        self._prune(len(checkpoint.records))

    def read(self) -> Checkpoint | None:
        """The last checkpoint that is whole, or None where nothing was written.

        Raises:
            Refused: `bad-checkpoints`, where there are checkpoints and none of them is whole.
        """
        paths = sorted(self.folder.glob("checkpoint-*.json"), reverse=True)
        for path in paths:
            try:
                raw = json.loads(path.read_text(encoding="utf-8"))
                seal, sums = raw.pop("sha256"), raw["sums"]
                if seal != _seal(raw):
                    raise ValueError("it is not as it was written")
                del raw["sums"]
                raw["records"] = [RoundRecord.from_dict(record) for record in raw["records"]]
                checkpoint = Checkpoint(**raw)
                for name in sorted(checkpoint.files):
                    if _sha256(self.folder / name) != sums[name]:
                        raise ValueError(f"{name} is not as it was written")
            except FileNotFoundError as error:
                self.notes.append(f"{path.name} is left out: {Path(error.filename).name} is gone")
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                self.notes.append(f"{path.name} is left out: {error}")
            else:
                self._sums = dict(sums)
                return checkpoint
        if not paths:
            return None
        raise Refused(
            "bad-checkpoints",
            f"the checkpoints of the run cannot be read ({'; '.join(self.notes)})",
            str(self.folder),
            "start the run in a new workspace",
        )

    def _path(self, rounds: int) -> Path:
        return self.folder / f"checkpoint-{rounds:06d}.json"

    def _prune(self, rounds: int) -> None:
        """Keeps the last two checkpoints, and of the files those that one of them names."""
        kept = [self._path(rounds), self._path(rounds - 1)]
        for path in self.folder.glob("checkpoint-*.json"):
            if path not in kept:
                path.unlink()
        named: set[str] = set()
        for path in kept:
            with suppress(OSError, ValueError, KeyError, TypeError):
                named |= set(json.loads(path.read_text(encoding="utf-8"))["sums"])
        for stale in (*self.folder.glob("*.safetensors"), *self.folder.glob(".*.partial")):
            if stale.name not in named:
                stale.unlink()


def count_rounds(folder: Path) -> int:
    """Rounds that a checkpoints holds, without reading it."""
    return max(
        (int(path.stem.partition("-")[2]) for path in folder.glob("checkpoint-*.json")), default=0
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
