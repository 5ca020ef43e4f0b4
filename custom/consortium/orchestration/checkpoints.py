"""What survives a kill of the orchestrator.

After each round a checkpoint: the model, the best model, the records and the selection's state.

What always holds: a checkpoint names files that were complete before it was renamed into place,
with their checksums and its own. The last two checkpoints are kept, so that where the last one is
damaged the round before it is still there.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from consortium.core.errors import Refused
from consortium.core.files import flush_file, replace_file
from consortium.orchestration.records import RoundRecord

_PREFIX, _BETWEEN, _SUFFIX = '{"sha256": "', '", "content": ', "}\n"


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
        self._unflushed: set[str] = set()
        self._lines: list[tuple[RoundRecord, str]] = []
        self._files: dict[int, set[str]] = {}  # of the checkpoints that were written here
        self._flushed: int | None = None

    def keep(self, name: str, write: Callable[[Path], object], *, flush: bool = True) -> None:
        """Writes a file that the next checkpoint names.

        Args:
            name: of the file.
            write: fills it, given its path.
            flush: bring it to the disk; see `write`.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; the last checkpoint stands.
        """
        replace_file(self.folder / name, write, flush=flush)
        self._sums[name] = _sha256(self.folder / name)
        if flush:
            self._unflushed.discard(name)
        else:
            self._unflushed.add(name)

    def write(
        self,
        checkpoint: Checkpoint,
        models: Mapping[str, Callable[[Path], object]] | None = None,
        *,
        flush: bool = True,
    ) -> None:
        """Writes a checkpoint atomically.

        Args:
            checkpoint: names its models by file name.
            models: how to fill each file that is not there yet, by file name.
            flush: bring it and its files to the disk, which takes a hundredth of a second or more.
                Without, it survives the end of any process; where the machine itself stops, the
                last checkpoint that was flushed is still there.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; the last checkpoint stands.
        """
        for name, write in (models or {}).items():
            self.keep(name, write, flush=flush)
        if flush:
            for name in sorted(checkpoint.files & self._unflushed):
                flush_file(self.folder / name)
            self._unflushed -= checkpoint.files
        text = self._text(checkpoint)
        number = len(checkpoint.records)
        replace_file(
            self._path(number),
            lambda beside: beside.write_text(text, encoding="utf-8"),
            flush=flush,
        )
        self._files[number] = checkpoint.files
        self._flushed = number if flush else self._flushed
        self._prune({number, number - 1, self._flushed})

    def _text(self, checkpoint: Checkpoint) -> str:
        """The file's content: its checksum first, then what it is of; a round a line."""
        sums = {name: self._sums[name] for name in sorted(checkpoint.files)}
        head = {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
        del head["records"]
        lines = ",\n".join(self._dump(checkpoint.records))
        content = f'{json.dumps({**head, "sums": sums})[:-1]}, "records": [\n{lines}\n]}}'
        return f"{_PREFIX}{_seal(content)}{_BETWEEN}{content}{_SUFFIX}"

    def _dump(self, records: Sequence[RoundRecord]) -> list[str]:
        """Each record as JSON; those that were dumped before are not dumped again."""
        for number, record in enumerate(records):
            if number >= len(self._lines) or self._lines[number][0] is not record:
                self._lines[number:] = [(record, json.dumps(record.to_dict(), allow_nan=False))]
        return [line for _, line in self._lines[: len(records)]]

    def read(self) -> Checkpoint | None:
        """The last checkpoint that is whole, or None where nothing was written.

        Raises:
            Refused: `bad-checkpoints`, where there are checkpoints and none of them is whole.
        """
        paths = sorted(self.folder.glob("checkpoint-*.json"), reverse=True)
        for path in paths:
            try:
                raw = _parse(path.read_text(encoding="utf-8"))
                sums = raw.pop("sums")
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
                self._flushed = len(checkpoint.records)  # as far as can be known
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

    def _prune(self, numbers: Collection[int | None]) -> None:
        """Keeps these checkpoints, and of the files those that one of them names."""
        kept = {self._path(number): number for number in numbers if number is not None}
        for path in self.folder.glob("checkpoint-*.json"):
            if path not in kept:
                path.unlink()
        self._files = {n: files for n, files in self._files.items() if n in numbers}
        named: set[str] = set()
        for path, number in kept.items():
            if number not in self._files:
                with suppress(OSError, ValueError, KeyError, TypeError):
                    self._files[number] = set(_parse(path.read_text(encoding="utf-8"))["sums"])
            named |= self._files.get(number, set())
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


def _seal(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _parse(text: str) -> dict[str, Any]:
    """The content of a checkpoint's file.

    Raises:
        ValueError: it is not as it was written.
    """
    raw: dict[str, Any] = json.loads(text)
    start = len(_PREFIX) + len(raw["sha256"]) + len(_BETWEEN)
    if raw["sha256"] != _seal(text[start : -len(_SUFFIX)]):
        raise ValueError("it is not as it was written")
    content: dict[str, Any] = raw["content"]
    return content
