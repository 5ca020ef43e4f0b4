"""The orchestrator's job store, which judges a job before it keeps it.

FLARE accepts any archive and fails when it deploys the job; the job then reads `FAILED_TO_RUN`
without a reason. Hospitals judge each job again by themselves.
"""

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.job_def_manager import JobInfo, SimpleJobDefManager
from nvflare.apis.job_def import JobMetaKey, RunStatus

from consortium.core.errors import ConsortiumError, Refused
from consortium.flare.parent.submission import check_record, clean_record, readable_part
from consortium.flare.parent.submitted import judge_files
from consortium.orchestration.recovery import OUTCOME
from consortium.study.job_content import check_meta, is_signature
from consortium.study.job_files import Files, read_archive

_log = logging.getLogger(__name__)
_EMPTY = b"PK\5\6" + bytes(18)  # a zip file without entries
_APP, _META = "app/", "meta.json"


class CheckedJobs(SimpleJobDefManager):
    """FLARE's job store, in which a refused job becomes a failed job with a reason.

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
        meta = clean_record(meta)
        try:
            kit = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
            check_submission(kit, uploaded_content, meta)
            check_record(meta, kit)
        except ConsortiumError as refused:
            reason = str(refused).removeprefix("error ")
            outcome = {"complete": False, "reason": reason, "stopped": True}
            meta = {**readable_part(meta), OUTCOME: outcome}
            created = dict(super().create(meta, _EMPTY, fl_ctx))
            self.set_status(created[JobMetaKey.JOB_ID.value], RunStatus.FAILED_TO_RUN, fl_ctx)
            return created
        return dict(super().create(meta, uploaded_content, fl_ctx))

    def _scan(self, job_filter: Any, fl_ctx: FLContext, skip_tag: str | None = None) -> None:
        """Reads all records for FLARE, and passes over one that is damaged."""
        store = self._get_job_store(fl_ctx)
        for uri in store.list_objects(self.uri_root, without_tag=skip_tag) or ():
            job_id = PurePosixPath(uri).name
            try:
                meta = store.get_meta(self.job_uri(job_id))
                if meta and not job_filter.filter_job(JobInfo(meta, job_id, self.job_uri(job_id))):
                    return
            except Exception:
                _log.exception("the record of job %s cannot be read", job_id)


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
