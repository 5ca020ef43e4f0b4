"""The patterns of the names from which paths are made."""

import pytest

from consortium.core.names import is_hospital_name, is_run_id

NO_NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "-x",
    "a/b",
    "/etc",
    "../up",
    "a\n",
    "a b",
    "a\0",
    "ä",
    None,
    7,
]


@pytest.mark.parametrize("value", [*NO_NAMES, "a.b", "a" * 65, ["a"], {}])
def test_what_is_no_run_id(value):
    assert not is_run_id(value)


@pytest.mark.parametrize(
    "value", ["r1", "0adde301-8973-4073-b9ff-b2a1c2067879", "20261128-152028-ab12cd", "in-process"]
)
def test_what_is_a_run_id(value):
    assert is_run_id(value)


@pytest.mark.parametrize("value", [*NO_NAMES, "server", "Global", "a" * 64])
def test_what_is_no_hospital_name(value):
    assert not is_hospital_name(value)


@pytest.mark.parametrize("value", ["north", "St.Mary_2", "hospital-1", "a..b"])
def test_what_is_a_hospital_name(value):
    assert is_hospital_name(value)
