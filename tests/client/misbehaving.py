"""Trainers that misbehave, for a trainer process to open."""

import os
import signal
import time

from consortium.client.trainer import LocalTrainer
from consortium.core.errors import UsageError


def where(name):
    """The path of a class in this file, as `module:name`."""
    return f"{__name__}:{name}"


class Careless(LocalTrainer):
    def train(self, base, round_number):
        raise RuntimeError("patient Jane Doe in /srv/scans")


class WithAStrangeFile(LocalTrainer):
    def train(self, base, round_number):
        raise UsageError("unreadable-file", "damaged", "Jane\udcfc.nii.gz", "copy it again")


class Doomed(LocalTrainer):
    def train(self, base, round_number):
        os.kill(os.getpid(), signal.SIGKILL)


class DoomedOnce(LocalTrainer):
    """Dies in the middle of its first round, by a segmentation fault."""

    def train(self, base, round_number):
        mark = self._site.state / "died"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().train(base, round_number)


class Deaf(LocalTrainer):
    """Ignores a request to stop."""

    def train(self, base, round_number):
        (self._site.state / "deaf").touch()
        time.sleep(3600)
