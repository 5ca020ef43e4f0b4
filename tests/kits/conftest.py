"""A consortium, provisioned once; tests damage copies."""

import shutil

import pytest
from tests.conftest import ROOT

from consortium.provisioning import create


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory):
    """The coordinator's folder of the project that is shipped; not to be written into."""
    folder = tmp_path_factory.mktemp("provisioned")
    create(ROOT / "provisioning" / "project.yml", folder / "out")
    return folder / "out"


@pytest.fixture
def kit(provisioned, tmp_path):
    """A copy of the kit of a hospital to damage."""
    shutil.copytree(provisioned / "kits" / "north", tmp_path / "north")
    return tmp_path / "north"
