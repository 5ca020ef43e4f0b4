"""What FLARE builds at a hospital for a job; nothing else stands here."""

from consortium.flare.client.executor import HospitalExecutor
from consortium.flare.client.site import SiteData

__all__ = [
    "HospitalExecutor",
    "SiteData",
]
