"""The classes that FLARE builds at a hospital for a job, and nothing else."""

from consortium.flare.client.executor import HospitalExecutor
from consortium.flare.client.site import SiteData

__all__ = [
    "HospitalExecutor",
    "SiteData",
]
