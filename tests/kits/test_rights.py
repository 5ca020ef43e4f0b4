"""A hospital's own policy that grants more than the shipped one."""

import copy
import subprocess
import sys

import pytest
from tests.kits.test_verify import codes

from consortium.core.errors import Refused, UsageError
from consortium.core.files import write_json
from consortium.kits.hospital import HOSPITAL
from consortium.kits.preflight import Machine, preflight
from consortium.kits.rights import POLICY, further_right, further_rights
from consortium.kits.site_defaults import AUTHORIZATION
from consortium.kits.start import check_kit
from consortium.kits.verify import verify_kit

BYOC = "lead may byoc: any"


def grant(kit, role="lead", **rights):
    policy = copy.deepcopy(AUTHORIZATION)
    policy["permissions"].setdefault(role, {}).update(rights)
    write_json(kit / POLICY, policy)


def write_policy(kit, permissions):
    write_json(kit / POLICY, {"format_version": "1.0", "permissions": permissions})


def test_the_shipped_policy_and_a_narrower_one_are_no_more(kit):
    assert further_rights(kit) == []
    write_json(kit / POLICY, AUTHORIZATION)
    assert further_rights(kit) == []
    lead = {**AUTHORIZATION["permissions"]["lead"]}
    del lead["view"]
    lead |= {"submit_job": "not o:coordination", "manage_job": "none", "operate": "NO"}
    write_policy(kit, {"lead": lead, "member": {"view": ["o:site", "n:board@consortium.example"]}})
    assert further_rights(kit) == []
    assert codes(kit) == []


@pytest.mark.parametrize(
    ("permissions", "words"),
    [
        ({"lead": {"byoc": "any"}}, [BYOC]),
        ({" Lead ": {"BYOC": "All"}}, ["lead may byoc: all"]),
        ({"LEAD": {"byoc": "any"}, "lead": {"byoc": "none"}}, [BYOC]),
        ({"lead": {"shell_commands": "o:site"}}, ["lead may shell_commands: o:site"]),
        ({"lead": {"cat": "any"}}, ["lead may cat: any"]),  # one command of a category
        ({"lead": {"download_job": "any"}}, ["lead may download_job: any"]),
        ({"lead": {"byoc": "not o:elsewhere"}}, ["lead may byoc: not o:elsewhere"]),
        ({"lead": {"byoc": ["none", "any"]}}, ['lead may byoc: ["none", "any"]']),
        ({"lead": "any", "member": ["o:site"]}, ["lead may *: any", 'member may *: ["o:site"]']),
        ({"member": {"view": "any", "submit_job": "any"}}, ["member may submit_job: any"]),
        ({"visitor": {"view": "any"}}, ["visitor may view: any"]),
        ({"lead": "none"}, []),
    ],
)
def test_each_right_beyond_the_shipped_ones_is_named(kit, permissions, words):
    write_policy(kit, permissions)
    assert further_rights(kit) == words


@pytest.mark.parametrize("text", ["", "[]", '{"permissions": 3}', "{}"])
def test_what_is_no_policy_is_refused(kit, text):
    (kit / POLICY).write_text(text)
    with pytest.raises(UsageError) as refusal:
        verify_kit(kit)
    assert refusal.value.code in ("bad-json", "bad-policy")


def rights_of(kit):
    machine = Machine(lambda: [], lambda: "", lambda folder: (0, 0))
    return next(check for check in preflight(kit, machine) if check.name == "rights")


def test_a_kit_with_a_further_right_starts_only_if_the_hospital_repeats_it(kit, consortium):
    assert rights_of(kit).level == "ok"
    grant(kit, byoc="any")
    assert further_right("lead", "byoc", "any") == BYOC
    assert codes(kit) == [("further-right", POLICY)]
    with pytest.raises(Refused, match=f"bad-kit: further-right, {BYOC} .*further_rights"):
        check_kit(kit)
    code, printed, _ = consortium("verify-kit", kit)
    assert code == 1
    assert f"further-right: {POLICY}: {BYOC}" in printed
    assert (rights_of(kit).level, rights_of(kit).result) == ("error", BYOC)

    write_json(kit / HOSPITAL, {"further_rights": [BYOC]})
    assert codes(kit) == []
    assert check_kit(kit).further_rights == [BYOC]
    code, printed, _ = consortium("verify-kit", kit)
    assert code == 0
    assert f"a right beyond the shipped ones: {BYOC}" in printed
    assert (rights_of(kit).level, rights_of(kit).result) == ("warning", BYOC)

    grant(kit, byoc="any", shell_commands="any")
    [finding] = verify_kit(kit).findings
    assert finding.detail.startswith("lead may shell_commands: any")


def check_before_start(kit):
    """Runs the check that the kit's starting scripts run."""
    command = [sys.executable, "-P", "-m", "consortium.kits.start", str(kit)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_start_refuses_a_further_right_or_says_it(kit):
    words = "lead may shell_commands: any"
    grant(kit, shell_commands="any")
    ended = check_before_start(kit)
    assert ended.returncode != 0
    assert ended.stderr.startswith(f"error bad-kit: further-right, {words} ")
    assert ended.stderr.count("\n") == 1
    write_json(kit / HOSPITAL, {"further_rights": [words]})
    ended = check_before_start(kit)
    assert ended.returncode == 0
    assert ended.stderr == f"this hospital grants a right beyond the shipped ones: {words}\n"
