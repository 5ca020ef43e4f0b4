"""Errors and notes about a project file, before anything is provisioned."""

import pytest
from tests.conftest import ROOT

from consortium.core.errors import UsageError
from consortium.kits.project import parse_project, with_participant
from consortium.runs.federation import describe_project

TEXT = (ROOT / "provisioning" / "project.yml").read_text(encoding="utf-8")


def error_of(text):
    with pytest.raises(UsageError) as raised:
        parse_project(text, "project.yml")
    assert raised.value.where == "project.yml"
    return raised.value.what


def test_the_shipped_project_has_one_orchestrator_four_hospitals_and_every_role():
    project, raw = parse_project(TEXT, "project.yml")
    kinds = [entry.type for entry in project.participants]
    assert (kinds.count("server"), kinds.count("client")) == (1, 4)
    assert len({entry.org for entry in project.participants if entry.type == "client"}) == 4
    roles = {entry.role for entry in project.participants if entry.type == "admin"}
    assert roles == {"project_admin", "org_admin", "lead", "member"}
    assert raw["builders"][1]["path"] == "consortium.flare.kit_builder.KitBuilder"
    assert project.notes() == [
        "orchestrator can be reached only on this machine; put its DNS name into default_host for"
        " hospitals elsewhere"
    ]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("name: valley,", "name: north,", "two participants have the name north"),
        ("name: valley,", "name: North,", "two participants have the name north"),
        ("name: valley,", "name: server,", "participant server: a hospital's name must be"),
        ("name: valley,", "name: val ley,", "participant val ley: a hospital's name must be"),
        ("name: valley,", "", "participant number 4 name: Field required"),
        ("org: valley_hospital}", "org: valley-hospital}", "participant valley: org 'valley-"),
        ("org: valley_hospital}", "org: site}", "org 'site' has another meaning"),
        ("role: lead", "role: leader", "role must be one of project_admin, org_admin, lead,"),
        ("type: client, org: valley", "type: hospital, org: valley", "participant valley type: "),
        ("type: client, org: valley", "type: server, org: valley", "type server, not 2"),
        ("researcher@north.example", "researcher", "an admin's name must be an e-mail"),
        ("default_host: localhost", "default_host: local host", "'local host' is not a host name"),
        ("[127.0.0.1]", "['::1']", "'::1' is not a host name or address"),
        ("fed_learn_port: 8002", "fed_learn_port: 80020", "orchestrator fed_learn_port: "),
        ("fed_learn_port: 8002", "connection_security: clear", "connection_security: "),
        ("api_version: 3", "api_version: 4", "api_version: "),
        ("name: consortium\n", "name: our consortium\n", "name: "),
        ("  - path: consortium.flare.kit_builder.KitBuilder\n", "", "builders must begin with"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence_with_the_participant(old, new, what):
    assert old in TEXT
    sentence = error_of(TEXT.replace(old, new, 1))
    assert what in sentence
    assert "\n" not in sentence


def test_a_federation_on_one_machine_is_provisioned_as_the_shipped_project_is():
    _, raw = parse_project(TEXT, "project.yml")
    assert describe_project(["north"], 8002)["builders"] == raw["builders"]


def test_text_that_is_not_yaml_is_reported_with_its_line():
    assert error_of("api_version: 3\nname: [").startswith("line 2: ")
    assert error_of("- 3") == "the top level is not a mapping"


def test_a_hospital_without_a_steward_is_noted():
    text = with_participant(TEXT, {"name": "fen", "type": "client", "org": "fen_hospital"})
    project, _ = parse_project(text, "project.yml")
    assert "hospital fen has no org_admin of its organisation, fen_hospital" in project.notes()


def test_an_added_participant_changes_nothing_else_in_the_file():
    text = with_participant(TEXT, {"name": "fen", "type": "client", "org": "fen_hospital"})
    before, after = TEXT.splitlines(), text.splitlines()
    [added] = [line for line in after if line not in before]
    assert added.strip() == "- {name: fen, type: client, org: fen_hospital}"
    assert [line for line in before if line not in after] == []
