"""`local/hospital.json`: what a hospital decides itself, in its own file of its own kit.

It never leaves the hospital: the orchestrator has no command that reads it.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object

HOSPITAL = "local/hospital.json"


class HospitalFile(BaseModel):
    """A hospital's own choices.

    Attributes:
        data: the folder with the hospital's `dataset.json`; absolute. None until it is filled in.
        state: folder for what the hospital keeps of a run; by default in the kit.
        smallest_group: a metric over fewer patients is not sent.
        share_local_model: whether other hospitals may score the model trained here.
        gpus: how many GPUs of this machine jobs may use.
        gpu_memory: of each, GiB; needed where `gpus` is not 0.
        share_gpus: whether two jobs may share one, as far as the memory goes that they ask for.
        root_sha256: fingerprint of the consortium's root as the coordinator told it; the kit then
            starts with no other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str | None = None
    state: str | None = None
    smallest_group: int = Field(5, ge=1)
    share_local_model: bool = False
    gpus: int = Field(0, ge=0)
    gpu_memory: float = Field(0, ge=0, allow_inf_nan=False)
    share_gpus: bool = False
    root_sha256: str | None = Field(None, pattern=r"^(?:[0-9A-Fa-f]{2}:?){32}$")

    @model_validator(mode="after")
    def _memory_is_told(self) -> Self:
        if self.gpus and not self.gpu_memory:
            raise ValueError("gpu_memory is needed where there are gpus")
        return self


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
        told = first["msg"].removeprefix("Value error, ")
        raise UsageError("bad-hospital-file", f"{key}: {told}", str(path), "correct it") from None
