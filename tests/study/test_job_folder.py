import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.conftest import JOB, ROOT

from consortium import __version__
from consortium.cli.export_job import app as export_app
from consortium.cli.run import run_app
from consortium.core.errors import Refused, UsageError
from consortium.core.json_files import read_json_object
from consortium.study import job_folder
from consortium.study.job_content import BOUND, check_content
from consortium.study.job_files import read_folder
from consortium.study.job_folder import (
    CLIENT_CONFIG,
    SERVER_CONFIG,
    STUDY,
    add_configuration,
    export_job,
    find_job,
    prepare_job,
    seal_job,
)
from consortium.tasks.registry import load_settings

SETTINGS = JOB / "app" / "config" / "settings.json"


def test_a_job_of_ours_is_configuration_only():
    assert not [path for path in (ROOT / "jobs").rglob("*") if path.suffix == ".py"]
    assert read_json_object(JOB / "meta.json")["deploy_map"] == {"app": ["@ALL"]}
    assert read_json_object(JOB / "meta.json")["consortium"]["version"] == __version__


def test_a_prepared_job_declares_its_hospitals(tmp_path):
    raw = read_json_object(SETTINGS) | {"rounds": 3}
    prepare_job(JOB, tmp_path / "job", run="r1", hospitals=["west", "east"], settings=raw)
    meta = read_json_object(tmp_path / "job" / "meta.json")
    assert meta["consortium"] == {
        "version": __version__,
        "run": "r1",
        "hospitals": ["east", "west"],
        "gpu": {"memory_in_GiB": 0, "cpu_instead": True},
    }
    request = {"num_of_gpus": 1, "cpu_instead": True}
    assert meta["resource_spec"] == {"east": request, "west": request}
    assert (meta["mandatory_clients"], meta["min_clients"]) == (["east", "west"], 2)
    assert load_settings(tmp_path / "job" / "app" / "config" / "settings.json").rounds == 3


@pytest.mark.parametrize("job", sorted(path.name for path in (ROOT / "jobs").iterdir()))
def test_the_configuration_of_every_job_is_the_one_of_the_package(job, tmp_path):
    source = ROOT / "jobs" / job
    assert not list(source.rglob("config_fed_*"))
    export_job(source, tmp_path / "job", with_package=False)
    for path in (CLIENT_CONFIG, SERVER_CONFIG):
        ours = Path(job_folder.__file__).with_name(path.name)
        assert (tmp_path / "job" / path).read_bytes() == ours.read_bytes()


def test_a_configuration_of_its_own_is_for_simulations_and_is_not_exported(tmp_path):
    source = tmp_path / "job"
    shutil.copytree(JOB, source)
    add_configuration(source)
    (source / SERVER_CONFIG).write_text('{"format_version": 2}')
    add_configuration(source)
    raw = read_json_object(SETTINGS)
    prepare_job(source, tmp_path / "prepared", run="r1", hospitals=["east"], settings=raw)
    assert (tmp_path / "prepared" / SERVER_CONFIG).read_text() == '{"format_version": 2}'
    with pytest.raises(Refused, match=r"error other-configuration: .*config_fed_server\.json"):
        export_job(source, tmp_path / "out", with_package=False)
    assert not (tmp_path / "out").exists()


def test_an_exported_job_is_bound_by_its_digest_and_has_a_date(tmp_path):
    export_job(JOB, tmp_path / "out", hospitals=["east"], with_package=False)
    content = check_content(read_folder(tmp_path / "out" / "app"))
    assert timedelta(days=29) < content.until - datetime.now(UTC) < timedelta(days=31)
    meta = read_json_object(tmp_path / "out" / "meta.json")
    assert {key: content.study[key] for key in BOUND} == {key: meta[key] for key in BOUND}
    (tmp_path / "out" / "app" / "config" / "settings.json").write_text("{}")
    with pytest.raises(Refused, match="error altered-job: "):
        check_content(read_folder(tmp_path / "out" / "app"))
    seal_job(tmp_path / "out")
    with pytest.raises(UsageError, match="error bad-setting: "):
        check_content(read_folder(tmp_path / "out" / "app"))


def test_the_date_until_which_a_job_may_begin_is_the_end_of_a_day(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["tumor_segmentation", str(out), "--configuration-only", "--until", "2027-03-01"]
    with pytest.raises(SystemExit) as ended:
        run_app(export_app, arguments)
    assert (ended.value.code, capsys.readouterr().err) == (0, "")
    assert read_json_object(out / STUDY)["until"] == "2027-03-01T23:59:59Z"


@pytest.mark.parametrize(
    "name", ["server", "Server", "global", "a b", "", "../up", "a/b", "ä", "-x"]
)
def test_a_name_that_flare_could_not_use_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="bad-hospital-name"):
        prepare_job(
            JOB, tmp_path / "job", run="", hospitals=[name], settings=read_json_object(SETTINGS)
        )
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("run", ["../up", "/tmp/run", "a b", ".hidden", "a.b"])
def test_the_id_of_a_run_that_would_be_a_path_is_refused(tmp_path, run):
    with pytest.raises(UsageError, match="bad-run-id"):
        export_job(JOB, tmp_path / "job", run=run, with_package=False)
    assert not (tmp_path / "job").exists()


def test_hospitals_wait_ten_minutes_for_an_orchestrator_that_starts(tmp_path):
    export_job(JOB, tmp_path / "job", with_package=False)
    assert read_json_object(tmp_path / "job" / CLIENT_CONFIG)["max_runner_sync_timeout"] == 600


def test_an_exported_job_carries_the_package_and_nothing_else_of_the_checkout(tmp_path):
    out = tmp_path / "exported"
    export_job(JOB, out, hospitals=["east"])
    package = out / "app" / "custom" / "consortium"
    source = ROOT / "custom" / "consortium"
    carried = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    ours = {
        path.relative_to(source)
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert carried == ours
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    assert not [file for kind in ("md", "png", "jsonl") for file in out.rglob(f"*.{kind}")]
    assert read_json_object(out / "meta.json")["consortium"]["hospitals"] == ["east"]


def test_an_exported_job_takes_the_settings_of_a_file_and_leaves_the_variants_behind(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(read_json_object(SETTINGS) | {"rounds": 7}))
    source = tmp_path / "job"
    shutil.copytree(JOB, source)
    (source / "variants").mkdir(exist_ok=True)
    (source / "variants" / "other.json").write_text("{}")
    export_job(source, tmp_path / "exported", settings=file)
    assert load_settings(tmp_path / "exported" / "app" / "config" / "settings.json").rounds == 7
    assert not list(tmp_path.glob("exported/**/variants"))
    with pytest.raises(UsageError, match="error missing-file: no such file"):
        export_job(source, tmp_path / "none", settings=tmp_path / "none.json")
    file.write_text("{}")
    with pytest.raises(UsageError, match=f"error bad-setting: setting data.*, {file}, "):
        export_job(source, tmp_path / "none", settings=file)
    assert not (tmp_path / "none").exists()


def test_without_the_package_a_job_is_its_configuration_with_hospitals_and_settings(tmp_path):
    out = tmp_path / "job"
    export_job(JOB, out, hospitals=["east"], assignments=["rounds=7"], with_package=False)
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        "meta.json",
        "config_fed_server.json",
        "config_fed_client.json",
        "settings.json",
        "study.json",
    }
    assert load_settings(out / "app" / "config" / "settings.json").rounds == 7
    with pytest.raises(UsageError, match=r"error bad-setting: setting rounds: .*, --set, "):
        export_job(JOB, tmp_path / "none", assignments=["rounds=0"], with_package=False)


def test_a_job_asks_for_the_gpu_memory_that_its_meta_says(tmp_path):
    source = tmp_path / "job"
    shutil.copytree(JOB, source)
    meta = read_json_object(source / "meta.json")
    meta["consortium"]["gpu"] = {"memory_in_GiB": 16, "cpu_instead": False}
    (source / "meta.json").write_text(json.dumps(meta))
    export_job(source, tmp_path / "out", hospitals=["east"], with_package=False)
    assert read_json_object(tmp_path / "out" / "meta.json")["resource_spec"] == {
        "east": {"num_of_gpus": 1, "cpu_instead": False, "mem_per_gpu_in_GiB": 16}
    }


def test_an_exported_job_is_never_written_over_something(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(Refused, match="error exists"):
        export_job(JOB, tmp_path / "out")


def test_a_job_is_found_by_path_and_by_name(monkeypatch, tmp_path):
    assert find_job(str(JOB)) == JOB
    monkeypatch.chdir(ROOT / "tests")
    assert find_job("tumor_segmentation") == JOB
    monkeypatch.chdir(tmp_path)
    assert find_job("tumor_segmentation") == JOB
    with pytest.raises(UsageError, match="error unknown-job: no such job, tumour_segmentation"):
        find_job("tumour_segmentation")


def test_signatures_of_an_earlier_submission_are_left_behind(tmp_path):
    source = tmp_path / "job"
    shutil.copytree(JOB, source)
    (source / ".__nvfl_sig.json").write_text(json.dumps({}))
    prepare_job(source, tmp_path / "out", run="", hospitals=[], settings=read_json_object(SETTINGS))
    assert not (tmp_path / "out" / ".__nvfl_sig.json").exists()


@pytest.mark.parametrize(("attackers", "hospitals"), [(1, 5), (2, 7)])
def test_multi_krum_is_refused_where_it_would_leave_nobody_out(tmp_path, attackers, hospitals):
    raw = read_json_object(JOB / SETTINGS)
    raw["aggregation"] = {"rule": "multi_krum", "attackers": attackers}
    names = [f"h{number}" for number in range(hospitals)]
    prepare_job(JOB, tmp_path / "enough", run="", hospitals=names, settings=raw)
    with pytest.raises(UsageError, match=f"needs {hospitals} hospitals"):
        prepare_job(JOB, tmp_path / "few", run="", hospitals=names[1:], settings=raw)
    assert not (tmp_path / "few").exists()
