"""Stores the tensors that stay at a hospital between the rounds of a run.

Invariants: a file gets its name once it is complete, and carries its digest. The files of the last
two rounds are kept, because a resumed run may ask for a round again. A damaged file is noted in the
hospital's `errors.log`, and the one before it is used.
"""

from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from consortium.core.errors import EnvironmentProblem
from consortium.core.files import replace_file
from consortium.core.site_policy import note_error
from consortium.protocol.codec import digest
from consortium.protocol.schema import State

_DIGEST = "sha256"


class LocalStateStore:
    """The tensor files of one run.

    Args:
        folder: of the run, next to those of the hospital's other runs.
        runs: how many of the hospital's other runs keep their files; older ones are deleted.
    """

    def __init__(self, folder: Path, runs: int = 50):
        self._folder, self._runs = folder, runs

    def save(self, round_number: int, tensors: State) -> None:
        """Saves the tensors of a round and deletes those older than the round before it.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; the earlier files are unchanged.
        """
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {_DIGEST: digest(plain)}
        path = self._folder / _name(round_number)
        replace_file(path, lambda partial_path: save_file(plain, partial_path, metadata))
        for stale in [file for file in self._files() if file.name <= path.name][:-2]:
            stale.unlink()
        self._prune()

    def load(self, before_round: int) -> dict[str, Tensor]:
        """Loads the tensors of the last round before `before_round`; empty if there are none."""
        for path in reversed(self._files()):
            if path.name >= _name(before_round):
                continue
            with suppress(OSError, SafetensorError):
                tensors = load_file(path)
                with safe_open(path, "pt") as file:
                    if (file.metadata() or {}).get(_DIGEST) == digest(tensors):
                        return tensors
            message = "the file is damaged; the one of the round before it is used"
            note_error(self._folder, EnvironmentProblem("torn-file", message, str(path)))
        return {}

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("kept-*.safetensors"))

    def _prune(self) -> None:
        runs = {path.parent for path in self._folder.parent.glob("*/kept-*")} - {self._folder}
        for old in sorted(runs, key=lambda path: path.stat().st_mtime)[: -self._runs]:
            for stale in old.glob("kept-*.safetensors"):
                stale.unlink(missing_ok=True)


def _name(round_number: int) -> str:
    return f"kept-{round_number:06d}.safetensors"
