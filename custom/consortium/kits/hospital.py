"""`local/hospital.json`: the choices that a hospital makes itself, in its own file of its kit.

The file never leaves the hospital: the orchestrator has no command that reads it.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import Privacy

HOSPITAL = "local/hospital.json"


class HospitalFile(BaseModel):
    """A hospital's own choices.

    Attributes:
        data: absolute path of the data folder. None until the hospital fills it in.
        state: folder for the hospital's own files of a run; by default in the kit.
        smallest_group: a metric over fewer patients is not sent.
        share_local_model: whether other hospitals may score the model trained here.
        privacy: what the hospital protects in every job.
        further_rights: rights in the hospital's `local/authorization.json` beyond the shipped ones,
            each in the words in which `verify-kit` reports it. The kit starts with no others.
        gpus: number of this machine's GPUs that jobs may use.
        gpu_memory: memory of each GPU in GiB; required if `gpus` is not 0.
        share_gpus: whether jobs may share a GPU if the memory that they request fits.
        root_sha256: fingerprint of the consortium's root, as received from the coordinator. If set,
            the kit starts with no other root.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str | None = None
    state: str | None = None
    smallest_group: int = Field(5, ge=1)
    share_local_model: bool = False
    privacy: Privacy = Field(default_factory=Privacy)
    further_rights: tuple[str, ...] = ()
    gpus: int = Field(0, ge=0)
    gpu_memory: float = Field(0, ge=0, allow_inf_nan=False)
    share_gpus: bool = False
    root_sha256: str | None = Field(None, pattern=r"^(?:[0-9A-Fa-f]{2}:?){32}$")

    @model_validator(mode="after")
    def _require_memory(self) -> Self:
        if self.gpus and not self.gpu_memory:
            raise ValueError("gpu_memory is required if gpus is not 0")
        return self


def read_hospital(kit: Path) -> HospitalFile:
    """Reads the hospital's choices; all defaults if the file is missing, as in other kits.

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
        message = first["msg"].removeprefix("Value error, ")
        what = f"{key}: {message}"
        raise UsageError("bad-hospital-file", what, str(path), "correct it") from None
