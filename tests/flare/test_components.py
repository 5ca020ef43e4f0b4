"""The components that FLARE builds by name: each in the process that needs it, and no others."""

import contextlib
import importlib
import json
import pkgutil
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.utils.class_utils import instantiate_class
from tests.conftest import JOB

import consortium
from consortium.core.json_files import read_json_object
from consortium.kits.site_defaults import HOSPITAL_CLASSES, ORCHESTRATOR_CLASSES, local_files
from consortium.protocol import requests
from consortium.study.job_folder import CLIENT_CONFIG, SERVER_CONFIG, SETTINGS, prepare_job

OURS = "consortium."
ROLES = {"client": HOSPITAL_CLASSES, "server": ORCHESTRATOR_CLASSES}


def paths_in(content):
    """Paths of all our components in a configuration."""
    if isinstance(content, dict):
        path = content.get("path")
        if isinstance(path, str) and path.startswith(OURS):
            yield path
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from paths_in(value)


@pytest.fixture
def job(tmp_path):
    raw = read_json_object(JOB / SETTINGS)
    prepare_job(JOB, tmp_path / "job", run="", hospitals=["north"], settings=raw)
    return tmp_path / "job"


@pytest.fixture(params=ROLES)
def authorize(request, tmp_path):
    """FLARE's own decision whether a job may build a component, in a kit of ours."""
    file = tmp_path / "resources.json"
    file.write_text(json.dumps(local_files(request.param)["local/resources.json"]))
    kit = SimpleNamespace(get_resources_file_path=lambda: str(file))

    def ask(path):
        ComponentPathAuthorizer().authorize_component_config({"path": path}, workspace=kit)

    ask.role = request.param
    return ask


def test_a_kit_lets_a_job_build_what_its_configuration_names(authorize, job):
    config = {"client": CLIENT_CONFIG, "server": SERVER_CONFIG}[authorize.role]
    named = list(paths_in(read_json_object(job / config)))
    assert set(named) <= set(ROLES[authorize.role])
    for path in ROLES[authorize.role]:
        authorize(path)


@pytest.mark.parametrize(
    "path",
    [
        "consortium.flare.client.components.SiteData",
        "consortium.flare.client.components.HospitalExecutorOfMine",
        "consortium.flare.client.executor.HospitalExecutor",
        "consortium.flare.client.executor.Path",
        "consortium.flare.server.study.StudyRun",
        "consortium.flare.parent.components.RunKeeper",
        "consortium.core.files.Path",
        "nvflare.app_common.executors.exec.Executor",
    ],
)
def test_a_kit_lets_a_job_build_nothing_else(authorize, path):
    with pytest.raises(UnsafeComponentError, match="is not in allow_list"):
        authorize(path)


def modules_of(package):
    """All modules of a package that can be imported."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def test_of_all_names_that_can_be_reached_only_the_shells_are_built(authorize):
    reached, asked = set(), 0
    for module in [consortium, *modules_of(consortium)]:
        for name, value in vars(module).items():
            if callable(value):
                asked += 1
                with contextlib.suppress(UnsafeComponentError):
                    authorize(f"{module.__name__}.{name}")
                    reached.add(f"{module.__name__}.{name}")
    assert asked > 1000
    assert reached == set(ROLES[authorize.role])
    for path in reached:
        # FLARE lets every name below a listed one pass; nothing is there to be found.
        for below in ("__init__", "__init__.__globals__", "handle_event", "__class__"):
            with pytest.raises(TypeError, match="Can't load class"):
                instantiate_class(f"{path}.{below}", {})


def test_a_hospital_builds_nothing_of_the_orchestrators_and_the_other_way_round(authorize):
    [other] = ROLES.keys() - {authorize.role}
    for path in ROLES[other]:
        with pytest.raises(UnsafeComponentError):
            authorize(path)


def test_a_module_that_a_configuration_names_holds_only_its_components(job):
    configs = [read_json_object(job / CLIENT_CONFIG), read_json_object(job / SERVER_CONFIG)]
    named = {path for role in ROLES for path in paths_in(local_files(role))}
    named |= {path for config in configs for path in paths_in(config)}
    expected = defaultdict(set)
    for path in named | {path for paths in ROLES.values() for path in paths}:
        module, _, name = path.rpartition(".")
        expected[module].add(name)
    assert len(expected) == 3
    for module, names in expected.items():
        content = vars(importlib.import_module(module))
        assert {name for name in content if not name.startswith("__")} == names
        assert all(isinstance(content[name], type) for name in names)


def test_every_task_is_answered_by_the_executor_of_the_configuration(job):
    [executor] = read_json_object(job / CLIENT_CONFIG)["executors"]
    words = [word for name, word in vars(requests).items() if name.isupper()]
    known = {word for word in words if isinstance(word, str)}
    assert set(executor["tasks"]) == known


@pytest.mark.parametrize("side", ["client", "parent"])
def test_a_hospitals_processes_of_flare_do_without_torch(side):
    module = f"consortium.flare.{side}.components"
    code = f"import sys, {module}; print({{'torch', 'monai'}} & {{*sys.modules}})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
