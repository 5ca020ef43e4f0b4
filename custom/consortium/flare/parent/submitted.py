"""Judges a job by its bytes, for the parent processes of a hospital and of the orchestrator.

Who submitted a job is decided by its signature, and what that person may do by the kit's own
`authorization.json`; the words of the message that brought the job count for neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from nvflare.fuel.sec.authz import AuthorizationService, AuthzContext, Person

from consortium.core.errors import Refused
from consortium.kits.verify import ROOT
from consortium.study.job_content import (
    CONFIG,
    STUDY,
    JobContent,
    check_content,
    check_job_id,
    check_meta,
    run_of,
)
from consortium.study.job_files import Files
from consortium.study.job_ledger import Admission
from consortium.study.job_signature import CERTIFICATE, SIGNATURES, Signer, verify_signature

_REFUSED = {"submit_job": "not-authorized", "byoc": "brings-code"}


@dataclass(frozen=True, slots=True)
class JudgedJob:
    """A job that may run here, as far as its bytes tell.

    Attributes:
        content: what it contains.
        signer: who signed it.
        run: id of the run that it begins or continues.
        job_id: FLARE's id of it.
    """

    content: JobContent
    signer: Signer
    run: str
    job_id: str

    @property
    def admission(self) -> Admission:
        """What the hospital's ledger decides on."""
        return Admission(
            self.content.digest,
            self.run,
            self.job_id,
            self.signer.name,
            self.content.begins,
            self.content.until,
        )


def judge_job(kit: Path, files: Files, meta: Mapping[str, Any], job_id: str) -> JudgedJob:
    """Checks a job's files, its signature, its `meta.json` and its submitter's rights.

    Args:
        kit: folder of the kit that judges.
        files: of the job's app, by their path in it.
        meta: the `meta.json` that came with it.
        job_id: FLARE's id of the job.

    Raises:
        Refused: the code is one of `consortium.study.refusals.REFUSALS`.
        UsageError: a setting is refused.
    """
    check_job_id(job_id)
    content, signer = judge_files(kit, files)
    if meta.get("job_id") != job_id:
        raise Refused("altered-job", "the job's id differs in meta.json", job_id, "submit it again")
    check_meta(content, meta, signer)
    return JudgedJob(content, signer, run_of(content, meta, job_id), job_id)


def judge_files(kit: Path, files: Files) -> tuple[JobContent, Signer]:
    """Checks a job's files, its signature and its submitter's rights; see `judge_job`."""
    content = check_content(files)
    signatures, certificate = (files.get(f"{CONFIG}/{n}", b"") for n in (SIGNATURES, CERTIFICATE))
    root = x509.load_pem_x509_certificate((kit / ROOT).read_bytes())
    signer = verify_signature(files[STUDY], signatures, certificate, root, datetime.now(UTC))
    for right in ("submit_job", *["byoc"] * content.brings_code):
        if not _has_right(signer, right):
            raise Refused(
                _REFUSED[right],
                f"{signer.name} ({signer.role}, {signer.organisation}) has no right to {right}",
                "local/authorization.json",
                "ask the hospital's steward",
            )
    return content, signer


def _has_right(signer: Signer, right: str) -> bool:
    """Asks FLARE's reading of the kit's own policy; without a policy nobody has a right."""
    authorizer = AuthorizationService.get_authorizer()
    if authorizer is None:
        return False
    person = Person(signer.name, signer.organisation, signer.role)
    # Not `authorize`, which lets a role named "super" do everything.
    allowed, _ = authorizer.evaluate(AuthzContext(right=right, user=person, submitter=person))
    return allowed is True
