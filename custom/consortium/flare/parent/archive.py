"""The orchestrator's job store, which judges a job before it keeps it.

FLARE accepts any archive and fails when it deploys the job; the job then reads `FAILED_TO_RUN`
without a reason. Hospitals judge each job again by themselves.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.job_def_manager import SimpleJobDefManager
from nvflare.apis.job_def import JobMetaKey, RunStatus

from consortium.core.errors import ConsortiumError, Refused
from consortium.flare.parent.submitted import judge_files
from consortium.orchestration.recovery import OUTCOME
from consortium.study.job_content import check_meta, is_signature
from consortium.study.job_files import Files, read_archive

_EMPTY = b"PK\5\6" + bytes(18)  # a zip file without entries
_APP, _META = "app/", "meta.json"


class CheckedJobs(SimpleJobDefManager):
    """FLARE's job store, in which a job that no hospital would run is a failed job with a reason.

    FLARE does not report exceptions from here to the submitter.
    """

    def create(
        self, meta: dict[str, Any], uploaded_content: str | bytes, fl_ctx: FLContext
    ) -> dict[str, Any]:
        """Stores a submitted job; if it is refused, stores only its record.

        Args:
            meta: its `meta.json`.
            uploaded_content: the archive, or the path of its file.
            fl_ctx: FLARE's.
        """
        try:
            kit = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
            check_submission(kit, uploaded_content, meta)
        except ConsortiumError as refused:
            reason = str(refused).removeprefix("error ")
            meta = {**meta, OUTCOME: {"complete": False, "reason": reason, "stopped": True}}
            created = dict(super().create(meta, _EMPTY, fl_ctx))
            self.set_status(created[JobMetaKey.JOB_ID.value], RunStatus.FAILED_TO_RUN, fl_ctx)
            return created
        return dict(super().create(meta, uploaded_content, fl_ctx))


def check_submission(kit: Path, archive: str | bytes, meta: Mapping[str, Any]) -> None:
    """Checks a job as it was submitted.

    Args:
        kit: folder of the orchestrator's kit.
        archive: the bytes of a zip file that holds the job's folder, or its path.
        meta: the `meta.json` in it, with what FLARE added.

    Raises:
        Refused: the code is one of `consortium.study.refusals.REFUSALS`.
        UsageError: a setting is refused.
    """
    content, signer = judge_files(kit, _app_of(read_archive(archive)))
    check_meta(content, meta, signer)


def _app_of(files: Files) -> Files:
    """Returns the files of a job's app, by their path in it."""
    app: Files = {}
    for name, content in files.items():
        _, _, path = name.partition("/")  # the job's folder
        if path.startswith(_APP):
            app[path.removeprefix(_APP)] = content
        elif path != _META and not is_signature(path):
            raise Refused(
                "unknown-file", "no job has such a file", repr(name), "export the job again"
            )
    return app
