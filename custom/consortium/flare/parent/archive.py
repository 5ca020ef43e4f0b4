"""The orchestrator's job store, which checks an archive before it keeps it.

FLARE accepts any archive and fails when it deploys the job; the job then reads `FAILED_TO_RUN`
without a reason.
"""

import io
import stat
from collections import Counter
from pathlib import PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.job_def_manager import SimpleJobDefManager
from nvflare.apis.job_def import JobMetaKey, RunStatus

from consortium.core.errors import Refused
from consortium.orchestration.recovery import OUTCOME

_EMPTY = b"PK\5\6" + bytes(18)  # a zip file without entries


class CheckedJobs(SimpleJobDefManager):
    """FLARE's job store, in which an unsafe archive becomes a failed job with a reason.

    FLARE does not report exceptions from here to the submitter.
    """

    def create(
        self, meta: dict[str, Any], uploaded_content: str | bytes, fl_ctx: FLContext
    ) -> dict[str, Any]:
        """Stores a submitted job; if its archive is unsafe, stores only its record.

        Args:
            meta: its `meta.json`.
            uploaded_content: the archive, or the path of its file.
            fl_ctx: FLARE's.
        """
        try:
            check_archive(uploaded_content)
        except Refused as refused:
            reason = str(refused).removeprefix("error ")
            meta = {**meta, OUTCOME: {"complete": False, "reason": reason, "stopped": True}}
            created = dict(super().create(meta, _EMPTY, fl_ctx))
            self.set_status(created[JobMetaKey.JOB_ID.value], RunStatus.FAILED_TO_RUN, fl_ctx)
            return created
        return dict(super().create(meta, uploaded_content, fl_ctx))


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
