"""The checkpoints from which a run resumes after a kill of the orchestrator.

Each round writes a checkpoint: the model, the best model, the records and the selection's state.

A checkpoint is written after the files that it names, and holds their checksums and its own. The
last two checkpoints are kept, so that the previous round remains if the last one is damaged. A file
that both name has a spare, a second copy from which it is restored. Any one damaged file therefore
costs one round at most.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from consortium.core.errors import Refused
from consortium.core.files import flush_file, replace_file
from consortium.core.json_files import parse_json
from consortium.orchestration.records import RoundRecord

_PREFIX, _BETWEEN, _SUFFIX = '{"sha256": "', '", "content": ', "}\n"


@dataclass(slots=True)
class Checkpoint:
    """The state of a run after a round.

    Attributes:
        run: id of the run.
        settings: the job's settings; a resumed run may only change the number of rounds.
        records: records of all rounds so far.
        selection: state of `ModelSelection`.
        model: file name of the model that the next round starts from.
        model_sha256: its digest.
        best: file name of the best model; the same as `model` if that is the best.
        start: file name of the model that the first round started from.
        more: names of the other files that the next round needs, by content.
        averaged: number of models in the average; 0 without one.
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
        """The names of all files that the checkpoint needs."""
        return {self.model, self.best, self.start, *self.more.values()}

    @property
    def spared(self) -> set[str]:
        """The names of the files that have a spare, because other checkpoints name them too."""
        return {self.best, self.start} - {self.model}


class CheckpointStore:
    """A folder with the checkpoints of one run.

    Args:
        folder: the folder; the first checkpoint creates it.

    Attributes:
        notes: messages about damaged checkpoints that `read` has skipped.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.notes: list[str] = []
        self._sums: dict[str, str] = {}
        self._unflushed: set[str] = set()
        self._lines: list[tuple[RoundRecord, str]] = []
        self._files: dict[int, set[str]] = {}  # by number of the checkpoint
        self._flushed: int | None = None

    def write_file(self, name: str, write: Callable[[Path], object], *, flush: bool = True) -> None:
        """Writes a file that the next checkpoint names.

        Args:
            name: name of the file.
            write: writes the content to the path that it is given.
            flush: force the file to disk; see `write`.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; the last checkpoint stays valid.
        """
        replace_file(self.folder / name, write, flush=flush)
        self._sums[name] = _sha256(self.folder / name)
        if flush:
            self._unflushed.discard(name)
        else:
            self._unflushed.add(name)

    def write_spare(
        self, name: str, write: Callable[[Path], object], *, flush: bool = True
    ) -> None:
        """Writes the second copy of a file that `write_file` has written; see there.

        The content comes from memory once more, so that no damage to the file is copied.
        """
        spare = spare_of(name)
        replace_file(self.folder / spare, write, flush=flush)
        if flush:
            self._unflushed.discard(spare)
        else:
            self._unflushed.add(spare)

    def write(
        self,
        checkpoint: Checkpoint,
        models: Mapping[str, Callable[[Path], object]] | None = None,
        *,
        flush: bool = True,
    ) -> None:
        """Writes a checkpoint atomically.

        Args:
            checkpoint: the checkpoint.
            models: functions that write the missing files, by file name.
            flush: force the checkpoint and its files to disk, which takes a hundredth of a second
                or more. An unflushed checkpoint survives the end of any process. If the machine
                itself stops, the last flushed checkpoint remains.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; the last checkpoint stays valid.
        """
        for name, write in (models or {}).items():
            self.write_file(name, write, flush=flush)
        if flush:
            needed = checkpoint.files | set(map(spare_of, checkpoint.spared))
            for name in sorted(needed & self._unflushed):
                flush_file(self.folder / name)
            self._unflushed -= needed
        text = self._text(checkpoint)
        number = len(checkpoint.records)
        replace_file(
            self._path(number),
            lambda partial: partial.write_text(text, encoding="utf-8"),
            flush=flush,
        )
        self._files[number] = checkpoint.files
        self._flushed = number if flush else self._flushed
        self._prune({number, number - 1, self._flushed})

    def _text(self, checkpoint: Checkpoint) -> str:
        """Renders the file: the checksum first, then the content with a line for each round."""
        sums = {name: self._sums[name] for name in sorted(checkpoint.files)}
        head = {member.name: getattr(checkpoint, member.name) for member in fields(checkpoint)}
        del head["records"]
        lines = ",\n".join(self._dump(checkpoint.records))
        content = f'{json.dumps({**head, "sums": sums})[:-1]}, "records": [\n{lines}\n]}}'
        return f"{_PREFIX}{_seal(content)}{_BETWEEN}{content}{_SUFFIX}"

    def _dump(self, records: Sequence[RoundRecord]) -> list[str]:
        """Renders each record as JSON, once: earlier lines are cached."""
        for number, record in enumerate(records):
            if number >= len(self._lines) or self._lines[number][0] is not record:
                self._lines[number:] = [(record, json.dumps(record.to_dict(), allow_nan=False))]
        return [line for _, line in self._lines[: len(records)]]

    def read(self) -> Checkpoint | None:
        """Reads the last intact checkpoint; None if there is none, or only a damaged first one.

        Raises:
            Refused: `bad-checkpoints` if there are later checkpoints but none is intact.
        """
        paths = sorted(self.folder.glob("checkpoint-*.json"), reverse=True)
        for path in paths:
            try:
                checkpoint, sums = self._read_one(path)
            except FileNotFoundError as error:
                self.notes.append(f"{path.name} is left out: {Path(error.filename).name} is gone")
            except (
                OSError,
                ValueError,
                TypeError,
                KeyError,
                AttributeError,
                RecursionError,
            ) as error:
                self.notes.append(f"{path.name} is left out: {error}")
            else:
                self._sums = sums
                self._flushed = len(checkpoint.records)  # the best guess
                return checkpoint
        if not paths or paths[0] == self._path(1):
            return None  # the run begins anew, and loses its first round at most
        raise Refused(
            "bad-checkpoints",
            f"the checkpoints of the run cannot be read ({'; '.join(self.notes)})",
            str(self.folder),
            "start the run in a new workspace",
        )

    def _read_one(self, path: Path) -> tuple[Checkpoint, dict[str, str]]:
        """Reads a checkpoint and checks its files; restores those of which one copy is damaged.

        Returns:
            The checkpoint, and the checksums of its files.
        """
        raw = _parse(path.read_text(encoding="utf-8"))
        sums: dict[str, str] = raw.pop("sums")
        raw["records"] = [RoundRecord.from_dict(record) for record in raw["records"]]
        checkpoint = Checkpoint(**raw)
        for name in sorted(checkpoint.files):
            file, spare = self.folder / name, self.folder / spare_of(name)
            if name in checkpoint.spared and not _is_intact(file, sums[name]):
                self._restore(file, spare, sums[name])
            if _sha256(file) != sums[name]:
                raise ValueError(f"{name} is not as it was written")
            if name in checkpoint.spared and not _is_intact(spare, sums[name]):
                self._restore(spare, file, sums[name])
        return checkpoint, sums

    def _restore(self, file: Path, other: Path, sha256: str) -> None:
        """Restores a damaged file from its other copy, if that is intact."""
        if _is_intact(other, sha256):
            replace_file(file, lambda partial: shutil.copyfile(other, partial))
            self.notes.append(f"{file.name} was damaged and is restored from {other.name}")

    def _path(self, rounds: int) -> Path:
        return self.folder / f"checkpoint-{rounds:06d}.json"

    def _prune(self, numbers: Collection[int | None]) -> None:
        """Keeps these checkpoints and the files that they name, and removes all others."""
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
        named |= set(map(spare_of, named))
        for stale in (*self.folder.glob("*.safetensors"), *self.folder.glob(".*.partial")):
            if stale.name not in named:
                stale.unlink()


def count_rounds(folder: Path) -> int:
    """Counts the rounds of the last checkpoint from its file name."""
    return max(
        (int(path.stem.partition("-")[2]) for path in folder.glob("checkpoint-*.json")), default=0
    )


def spare_of(name: str) -> str:
    """Returns the name of a file's second copy."""
    stem, point, suffix = name.rpartition(".")
    return f"{stem}.spare{point}{suffix}"


def _is_intact(path: Path, sha256: str) -> bool:
    try:
        return _sha256(path) == sha256
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _parse(text: str) -> dict[str, Any]:
    """Parses a checkpoint's file.

    Raises:
        ValueError: the file has changed since it was written.
    """
    raw: dict[str, Any] = parse_json(text)
    start = len(_PREFIX) + len(raw["sha256"]) + len(_BETWEEN)
    if raw["sha256"] != _seal(text[start : -len(_SUFFIX)]):
        raise ValueError("it is not as it was written")
    content: dict[str, Any] = raw["content"]
    return content
