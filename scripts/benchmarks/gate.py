"""What a hospital's gate costs a job, and whether it accepts any job that was changed.

Invariant: an accepted job that differs from what was signed, or a refusal without a known code, is
an error.
"""

import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from nvflare.fuel.sec.authz import AuthorizationService
from nvflare.security.security import FLAuthorizer
from scripts.benchmarks import job_mutations
from scripts.benchmarks.report import Row, make_row
from scripts.benchmarks.signed_jobs import JOB_ID, Authority, archive_of, exported, meta_of, sign

from consortium.core.errors import EnvironmentProblem
from consortium.flare.parent.submitted import judge_job
from consortium.kits.site_defaults import AUTHORIZATION
from consortium.study.job_files import read_archive, read_folder
from consortium.study.job_ledger import JobLedger

_JOBS, _CHANGED = 50, 10_000


def measure(quick: bool) -> list[Row]:
    """Judges jobs as they arrive and as they start, then changed ones; few if quick.

    Raises:
        EnvironmentProblem: `job-accepted`, with the number of the change.
    """
    jobs, changed = (5, 50) if quick else (_JOBS, _CHANGED)
    policy = FLAuthorizer("north", AUTHORIZATION)
    with (
        tempfile.TemporaryDirectory() as temporary,
        mock.patch.object(AuthorizationService, "the_authorizer", policy),
    ):
        place = Path(temporary)
        authority = Authority(place / "people")
        kit, researcher = authority.kit(place / "north"), authority.person()
        signed = sign(exported(place / "job"), researcher)
        other = sign(exported(place / "other", assignments=["rounds=99"]), researcher)
        seconds = [_judge_once(kit, signed, place / f"ledger-{n}") for n in range(jobs)]
        draw = random.Random(2026)
        began = time.perf_counter()
        codes = [_try_one(kit, signed, other, draw, number) for number in range(changed)]
        each = (time.perf_counter() - began) / changed
    return [
        make_row("a job at its arrival and its start", seconds, "s", target=None if quick else 0.1),
        make_row(f"{changed} changed jobs, each", [each], "s"),
        make_row("of them refused", [sum(map(bool, codes))], ""),
        make_row("of them whole as signed, thus accepted", [codes.count("")], ""),
        make_row("codes of the refusals", [len(set(codes) - {""})], ""),
    ]


def _judge_once(kit: Path, job: Path, folder: Path) -> float:
    archive, meta, ledger = archive_of(job), meta_of(job), JobLedger(folder)
    began = time.perf_counter()
    judged = judge_job(kit, read_archive(archive), meta, JOB_ID)
    ledger.admit(judged.admission, datetime.now(UTC))
    again = judge_job(kit, read_folder(job / "app"), meta, JOB_ID)
    ledger.require(again.content.digest, run=again.run, job_id=JOB_ID)
    return time.perf_counter() - began


def _try_one(kit: Path, signed: Path, other: Path, draw: random.Random, number: int) -> str:
    try:
        return job_mutations.try_one(kit, signed, other, draw)
    except AssertionError as error:
        raise EnvironmentProblem("job-accepted", f"change {number}: {error}", str(kit)) from error
