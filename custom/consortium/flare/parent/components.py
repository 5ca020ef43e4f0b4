"""The classes that FLARE builds in the parent process of a kit, and nothing else."""

from consortium.flare.parent.archive import CheckedJobs
from consortium.flare.parent.gate import HospitalGate
from consortium.flare.parent.gpus import HospitalGPUs
from consortium.flare.parent.guard import DuplicateKitGuard, KitGuard
from consortium.flare.parent.outcome import OutcomeKeeper
from consortium.flare.parent.run_keeper import RunKeeper

__all__ = [
    "CheckedJobs",
    "DuplicateKitGuard",
    "HospitalGPUs",
    "HospitalGate",
    "KitGuard",
    "OutcomeKeeper",
    "RunKeeper",
]
