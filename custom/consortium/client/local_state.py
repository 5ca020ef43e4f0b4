"""What a hospital keeps between the rounds of a run: the tensors that stay local.

What always holds: a file is whole before it has its name, and carries its digest; those of the last
two rounds are there, for a run that goes on after a kill may ask for a round again; a damaged one
is left out for the one before it, and the hospital's `errors.log` says so.
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
    """The files of one run in a folder of its own.

    Args:
        folder: of the run, beside those of the hospital's other runs.
        runs: of the other runs, the newest whose files are left alone.
    """

    def __init__(self, folder: Path, runs: int = 50):
        self._folder, self._runs = folder, runs

    def save(self, round_number: int, tensors: State) -> None:
        """Keeps tensors of a round, and of those before it the last.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`; what was kept before stands.
        """
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {_DIGEST: digest(plain)}
        path = self._folder / _name(round_number)
        replace_file(path, lambda beside: save_file(plain, beside, metadata))
        for stale in [kept for kept in self._files() if kept.name <= path.name][:-2]:
            stale.unlink()
        self._prune()

    def load(self, before_round: int) -> dict[str, Tensor]:
        """The tensors of the last round before one; empty where there is none."""
        for path in reversed(self._files()):
            if path.name >= _name(before_round):
                continue
            with suppress(OSError, SafetensorError):
                tensors = load_file(path)
                with safe_open(path, "pt") as file:
                    if (file.metadata() or {}).get(_DIGEST) == digest(tensors):
                        return tensors
            told = "it is not as it was written, and is left out for the round before it"
            note_error(self._folder, EnvironmentProblem("torn-file", told, str(path)))
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
