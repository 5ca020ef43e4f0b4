"""The orchestrator's job store, which checks a job's archive and record before it keeps them.

FLARE accepts any archive and fails when it deploys the job; the job then reads `FAILED_TO_RUN`
without a reason.
"""

import io
import logging
import stat
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.job_def_manager import JobInfo, SimpleJobDefManager
from nvflare.apis.job_def import JobMetaKey, RunStatus

from consortium.core.errors import ConsortiumError, Refused
from consortium.flare.parent.submission import check_record, clean_record, readable_part
from consortium.orchestration.recovery import OUTCOME

_log = logging.getLogger(__name__)
_EMPTY = b"PK\5\6" + bytes(18)  # a zip file without entries


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
            check_archive(uploaded_content)
            check_record(meta, Path(fl_ctx.get_engine().get_workspace().get_root_dir()))
        except ConsortiumError as refused:
            outcome = {
                "complete": False,
                "reason": str(refused).removeprefix("error "),
                "stopped": True,
            }
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


def check_archive(archive: str | bytes) -> None:
    """Checks that an archive extracts into its own folder only, each file once.

    Args:
        archive: the bytes of a zip file, or its path.

    Raises:
        Refused: `unsafe-archive`, with the entry.
    """
    try:
        with ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive) as opened:
            entries = opened.infolist()
    except (OSError, BadZipFile) as error:
        raise _unsafe(f"the archive cannot be read ({error})", "the archive") from None
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise _unsafe("the entry would land outside of the job's folder", entry.filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise _unsafe("the entry is a symbolic link", entry.filename)
    for name, count in Counter(entry.filename for entry in entries).items():
        if count > 1:
            raise _unsafe(f"the archive has this entry {count} times", name)


def _unsafe(problem: str, entry: str) -> Refused:
    return Refused("unsafe-archive", problem, repr(entry), "submit the job's folder as it was made")
