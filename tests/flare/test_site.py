"""The folder of a run at a hospital, with a stand-in for FLARE's context."""

from types import SimpleNamespace

import pytest

from consortium.core.errors import Refused, UsageError
from consortium.flare.client.site import SiteData, find_site
from consortium.flare.job import Job
from consortium.orchestration.owners import Owner

ADA, BOB = Owner("ada@a.example", "a"), Owner("bob@b.example", "b")


@pytest.fixture
def find(tmp_path, tiny):
    """Finds the choices of a site for a job of a submitter."""
    choices = SiteData(data=str(tmp_path / "data"), state=str(tmp_path / "state"))

    def find(submitter, run="r1", name="north"):
        job = Job(run, "job", ("north",), {}, (), tiny(), tmp_path, tmp_path, submitter)
        engine = SimpleNamespace(get_component=lambda component: choices)
        context = SimpleNamespace(get_identity_name=lambda: name, get_engine=lambda: engine)
        return find_site(job, context)

    return find


def test_a_run_is_continued_at_a_hospital_by_its_submitter_only(find, tmp_path):
    assert find(ADA).state == tmp_path / "state" / "r1"
    assert find(ADA).state == tmp_path / "state" / "r1"
    with pytest.raises(Refused, match="other-submitter"):
        find(BOB)
    assert find(BOB, run="r2").state == tmp_path / "state" / "r2"


@pytest.mark.parametrize("name", ["../north", "", "a/b"])
def test_a_site_whose_name_is_none_makes_no_path(find, tmp_path, name):
    with pytest.raises(UsageError, match="bad-hospital-name"):
        find(ADA, name=name)
    assert not (tmp_path / "state").exists()
