"""Provisions a consortium once; tests damage copies of its kits."""

import json
import shutil

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.conftest import ROOT

from consortium.kits.manifest import sign_kit
from consortium.kits.verify import verify_kit
from consortium.membership.provisioning import create


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory):
    """The coordinator's folder of the shipped project; tests do not write into it."""
    folder = tmp_path_factory.mktemp("provisioned")
    create(ROOT / "provisioning" / "project.yml", folder / "out")
    return folder / "out"


@pytest.fixture
def kit(provisioned, tmp_path):
    """A copy of a hospital's kit, for a test to damage."""
    shutil.copytree(provisioned / "kits" / "north", tmp_path / "north")
    return tmp_path / "north"


def root_key(coordinator):
    state = json.loads((coordinator / "state.json").read_text())
    return load_pem_private_key(state["root_pri_key"].encode(), None)


def sign_again(kit, root):
    """Signs a changed kit, as only the coordinator can."""
    manifest = verify_kit(kit).manifest
    sign_kit(
        kit,
        participant=manifest.participant,
        role=manifest.role,
        organisation=manifest.organisation,
        project=manifest.project,
        key=root,
    )
