"""What a hospital remembers of the jobs that it admitted."""

from datetime import UTC, datetime, timedelta

import pytest

from consortium.core.errors import Refused
from consortium.study.job_ledger import QUIET, Admission, JobLedger

NOW = datetime(2026, 11, 28, tzinfo=UTC)
UNTIL = NOW + timedelta(days=30)


@pytest.fixture
def ledger(tmp_path):
    return JobLedger(tmp_path / "ledger")


def admit(ledger, digest="d1", run="r1", job_id="j1", now=NOW, by="r@x", begins=True):
    ledger.admit(Admission(digest, run, job_id, by, begins, UNTIL), now)


def test_a_job_is_admitted_and_its_run_goes_on(ledger, tmp_path):
    admit(ledger)
    admit(ledger)
    admit(ledger, job_id="j2")
    for job_id in ("j1", "j2"):
        ledger.require("d1", run="r1", job_id=job_id)
    JobLedger(tmp_path / "ledger").require("d1", run="r1", job_id="j1")


def test_a_digest_belongs_to_one_run(ledger):
    admit(ledger)
    with pytest.raises(Refused, match="already-run"):
        admit(ledger, run="r2", job_id="j2")
    with pytest.raises(Refused, match="already-run"):
        ledger.require("d1", run="r2", job_id="j1")


def test_a_jobs_id_belongs_to_one_digest(ledger):
    admit(ledger)
    with pytest.raises(Refused, match="already-run"):
        admit(ledger, digest="d2", run="r2")


def test_a_run_is_continued_by_the_person_who_began_it(ledger):
    admit(ledger)
    admit(ledger, digest="d2", job_id="j2", begins=False)
    with pytest.raises(Refused, match="not-your-run"):
        admit(ledger, digest="d3", job_id="j3", begins=False, by="other@x")
    with pytest.raises(Refused, match="not-your-run"):
        admit(ledger, digest="d3", job_id="j3", by="other@x")


def test_a_job_that_was_signed_as_a_new_run_does_not_become_a_part_of_another(ledger):
    admit(ledger)
    with pytest.raises(Refused, match="already-run"):
        admit(ledger, digest="d2", job_id="j2")


def test_what_was_not_admitted_does_not_start(ledger):
    with pytest.raises(Refused, match="not-admitted"):
        ledger.require("d1", run="r1", job_id="j1")
    admit(ledger)
    with pytest.raises(Refused, match="not-admitted"):
        ledger.require("d2", run="r1", job_id="j1")
    with pytest.raises(Refused, match="not-admitted"):
        ledger.require("d1", run="r1", job_id="j2")


def test_a_job_first_starts_until_its_date(ledger):
    admit(ledger, now=UNTIL)
    with pytest.raises(Refused, match=r"job-expired: the job could be started until 2026-12-28"):
        admit(ledger, digest="d2", run="r2", job_id="j2", now=UNTIL + timedelta(seconds=1))


def test_a_run_goes_on_after_the_date_until_it_has_been_quiet(ledger):
    admit(ledger, now=UNTIL)
    admit(ledger, job_id="j2", now=UNTIL + QUIET)
    ledger.note_end("j2", UNTIL + 3 * QUIET)
    ledger.note_end("of somebody else", UNTIL + 9 * QUIET)
    admit(ledger, job_id="j3", now=UNTIL + 4 * QUIET)
    with pytest.raises(Refused, match="job-expired"):
        admit(ledger, job_id="j4", now=UNTIL + 5 * QUIET + timedelta(seconds=1))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"run": "r1"}', '{"run": "r1", "seen": 7}'])
def test_a_damaged_record_admits_nothing(ledger, tmp_path, text):
    admit(ledger)
    (tmp_path / "ledger" / "digests" / "d1.json").write_text(text)
    with pytest.raises(Refused, match="bad-ledger"):
        admit(ledger, now=UNTIL + timedelta(seconds=1))
