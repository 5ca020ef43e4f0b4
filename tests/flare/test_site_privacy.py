"""Where a hospital's own choices come from, its floors above all."""

from types import SimpleNamespace

import pytest

from consortium.core.errors import UsageError
from consortium.core.files import write_json
from consortium.core.site_policy import Privacy, simulated_privacy
from consortium.flare.client.components import SiteData
from consortium.flare.client.site import PRIVACY, find_site
from consortium.kits.hospital import HOSPITAL
from consortium.orchestration.owners import Owner


def find(root, component):
    engine = SimpleNamespace(get_component={"site_data": component}.get)
    context = SimpleNamespace(get_identity_name=lambda: "north", get_engine=lambda: engine)
    return find_site(SimpleNamespace(root=root, run="first", submitter=Owner()), context)


def test_the_floors_of_a_kit_are_those_of_its_own_file(tmp_path):
    write_json(tmp_path / HOSPITAL, {"data": "/srv", "privacy": {"smallest_training": 9}})
    site = find(tmp_path, SiteData())
    assert site.privacy == Privacy(smallest_training=9)
    write_json(tmp_path / HOSPITAL, {"data": "/srv"})
    assert find(tmp_path, SiteData()).privacy == Privacy()


def test_another_kits_component_names_its_floors(tmp_path):
    assert find(tmp_path, SiteData("/srv")).privacy == Privacy()
    site = find(tmp_path, SiteData("/srv", privacy={"smallest_training": 9}))
    assert site.privacy == Privacy(smallest_training=9)
    with pytest.raises(ValueError, match="smallest_train"):
        SiteData("/srv", privacy={"smallest_train": 1})


def test_the_environment_names_the_floors_of_a_simulation(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSORTIUM_DATA", "/srv/{site}")
    monkeypatch.delenv(PRIVACY, raising=False)
    assert find(tmp_path, None).privacy == Privacy()
    monkeypatch.setenv(PRIVACY, simulated_privacy(2).model_dump_json())
    assert find(tmp_path, None).privacy == simulated_privacy(2)
    for wrong in ("", "{", '{"smallest_training": 0}', '{"smallest": 1}'):
        monkeypatch.setenv(PRIVACY, wrong)
        with pytest.raises(UsageError) as refusal:
            find(tmp_path, None)
        assert refusal.value.code == "bad-site-setting"


def test_a_hospital_has_one_home_for_all_runs(tmp_path):
    assert find(tmp_path, SiteData("/srv")).home == tmp_path / "consortium" / ".hospital" / "north"
