"""A run belongs to the submitter of its first job."""

import pytest

from consortium.core.errors import Refused
from consortium.orchestration.owners import OWNER, Owner, claim_run, is_owner, submitter_of

ADA, BOB = Owner("ada@a.example", "a"), Owner("bob@b.example", "b")


def test_a_new_run_becomes_the_submitters_and_stays_theirs(tmp_path):
    run = tmp_path / "r1"
    assert not is_owner(run, ADA)
    claim_run(run, ADA)
    claim_run(run, ADA)
    assert is_owner(run, ADA)
    assert not is_owner(run, BOB)
    for other in (BOB, Owner(), Owner(ADA.name, BOB.organisation)):
        with pytest.raises(Refused) as refused:
            claim_run(run, other)
        assert str(refused.value) == (
            "error other-submitter: the run belongs to somebody else, run r1,"
            " begin a run of your own"
        )
    assert is_owner(run, ADA)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "ada@a.example"}'])
def test_a_run_whose_owner_cannot_be_read_belongs_to_nobody(tmp_path, content):
    (tmp_path / OWNER).write_text(content)
    for submitter in (ADA, Owner()):
        assert not is_owner(tmp_path, submitter)
        with pytest.raises(Refused, match="other-submitter"):
            claim_run(tmp_path, submitter)


def test_the_submitter_is_whom_flare_has_noted():
    record = {"submitter_name": "ada@a.example", "submitter_org": "a", "submitter_role": "lead"}
    assert submitter_of(record) == ADA
    assert submitter_of({}) == Owner()
