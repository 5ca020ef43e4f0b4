"""`local/hospital.json`: what a hospital decides itself, in its own file of its own kit.

It never leaves the hospital: the orchestrator has no command that reads it.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consortium.errors import UsageError
from consortium.settings import read_json_object

HOSPITAL = "local/hospital.json"


class HospitalFile(BaseModel):
    """A hospital's own choices.

    Attributes:
        data: the folder with the hospital's `dataset.json`; absolute. None until it is filled in.
        state: folder for what the hospital keeps of a run; by default in the kit.
        smallest_group: a metric over fewer patients is not sent.
        share_local_model: whether other hospitals may score the model trained here.
        root_sha256: fingerprint of the consortium's root as the coordinator told it; the kit then
            starts with no other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str | None = None
    state: str | None = None
    smallest_group: int = Field(5, ge=1)
    share_local_model: bool = False
    root_sha256: str | None = Field(None, pattern=r"^(?:[0-9A-Fa-f]{2}:?){32}$")


def read_hospital(kit: Path) -> HospitalFile:
    """The hospital's choices; all defaults where the file is missing, as in kits of others.

    Raises:
        UsageError: `bad-hospital-file`.
    """
    path = kit / HOSPITAL
    if not path.exists():
        return HospitalFile()
    try:
        return HospitalFile.model_validate(read_json_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            "bad-hospital-file", f"{key}: {first['msg']}", str(path), "correct it"
        ) from None
