"""Who a run belongs to: the submitter of its first job, in a file of the run's folder.

The orchestrator and each hospital keep this file in their own folder of the run. FLARE's server
sets the submitter in a job's record from the admin's session, whatever the job says.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from consortium.core.errors import Refused, UsageError
from consortium.core.files import create_file
from consortium.core.json_files import read_json_object

OWNER = "owner.json"
"""File with the owner, in the run's folder."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The admin who submitted a job; both fields are empty in a simulation.

    Attributes:
        name: the admin's name in FLARE.
        organisation: the admin's.
    """

    name: str = ""
    organisation: str = ""


def submitter_of(record: Mapping[str, Any]) -> Owner:
    """Reads the submitter from FLARE's record of a job, or from its `meta.json` as deployed."""
    return Owner(
        str(record.get("submitter_name") or ""),
        str(record.get("submitter_org") or ""),
    )


def claim_run(folder: Path, submitter: Owner) -> None:
    """Makes a new run the submitter's, and refuses a run of somebody else.

    Args:
        folder: the run's folder; created if it is missing.
        submitter: of the job that is to begin or continue the run.

    Raises:
        Refused: `other-submitter`.
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    created = create_file(folder / OWNER, f"{json.dumps(asdict(submitter))}\n".encode())
    if not created and not is_owner(folder, submitter):
        raise Refused(
            "other-submitter",
            "the run belongs to somebody else",
            f"run {folder.name}",
            "begin a run of your own",
        )


def is_owner(folder: Path, submitter: Owner) -> bool:
    """Whether a run belongs to the submitter; a damaged or missing file belongs to nobody."""
    try:
        return read_json_object(folder / OWNER) == asdict(submitter)
    except UsageError:
        return False
