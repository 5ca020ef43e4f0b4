"""`local/orchestrator.json`: the choices of the orchestrator's operator, in a file of the kit."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object

ORCHESTRATOR = "local/orchestrator.json"


class OrchestratorFile(BaseModel):
    """The operator's own choices.

    Attributes:
        models: absolute path of a folder of models that the job of every researcher may start from.
            None offers none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: str | None = Field(None, pattern="^/")


def read_orchestrator(kit: Path) -> OrchestratorFile:
    """Reads the operator's choices; all defaults if the file is missing, as in other kits.

    Raises:
        UsageError: `bad-orchestrator-file`.
    """
    path = kit / ORCHESTRATOR
    if not path.exists():
        return OrchestratorFile()
    try:
        return OrchestratorFile.model_validate(read_json_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        raise UsageError("bad-orchestrator-file", what, str(path), "correct it") from None
