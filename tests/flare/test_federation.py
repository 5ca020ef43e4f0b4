"""A real federation: kits, processes, mutual TLS on loopback, and its messages to people."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.conftest import JOB, TINY
from tests.flare.conftest import HOSPITALS, processes_in, wait_for_end

from consortium.cli.federation import app
from consortium.cli.run import run_app
from consortium.core.errors import Refused
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.flare.session import open_session
from consortium.kits.project import read_project
from consortium.kits.verify import verify_kit
from consortium.runs import federation
from consortium.study.job_folder import STUDY, export_job, seal_job

pytestmark = pytest.mark.flare


def run_command(*arguments):
    with pytest.raises(SystemExit) as ended:
        run_app(app, [str(word) for word in arguments])
    return ended.value.code


def test_up_starts_only_what_does_not_run_and_status_shows_it(workspace, capsys, generated):
    before = federation.status(workspace)
    assert [machine.name for machine in before] == ["orchestrator", *HOSPITALS]
    assert all(machine.connected for machine in before)
    killed = next(machine for machine in before if machine.name == "valley")
    psutil.Process(killed.process).kill()
    deadline = time.monotonic() + 60
    while any(m.name == "valley" and m.process for m in federation.status(workspace)):
        assert time.monotonic() < deadline
    up = ("up", "--workspace", workspace, "--data", generated)
    assert run_command(*up, "--smallest-training", 1) == 0
    after = {machine.name: machine.process for machine in federation.status(workspace)}
    assert after["valley"] not in (None, killed.process)
    kept = {m.name: m.process for m in before if m.name != "valley"}
    assert {name: after[name] for name in kept} == kept
    printed = capsys.readouterr().out
    assert "valley" in printed
    with pytest.raises(Refused, match="other-hospitals"):
        federation.up(workspace, hospitals=2)


def test_nothing_is_open_to_other_machines(workspace):
    bound = {
        (machine.name, socket_.laddr.ip)
        for machine in federation.status(workspace)
        for socket_ in psutil.Process(machine.process).net_connections("inet")
        if socket_.status == psutil.CONN_LISTEN
    }
    assert {name for name, _ in bound} == {"orchestrator", *HOSPITALS}
    assert {ip.removeprefix("::ffff:") for _, ip in bound} == {"127.0.0.1"}


def test_a_job_without_code_trains_at_every_hospital_and_its_results_come_back(
    workspace, job, tmp_path
):
    before = {path: path.read_bytes() for path in job.rglob("*") if path.is_file()}
    with open_session(federation.admin_kit(workspace, federation.RESEARCHER)) as session:
        job_id = session.submit(job)
        assert wait_for_end(session, job_id) == "FINISHED:COMPLETED"
        left = session.download(job_id, tmp_path / "down") / "workspace" / "consortium"
    result = json.loads((left / "result.json").read_text())
    assert result["complete"], result["reason"]
    assert [row["name"] for row in result["hospitals"]] == HOSPITALS
    assert len((left / "rounds.jsonl").read_text().splitlines()) == 2
    assert {path.name for path in left.iterdir()} >= {"report.html", "model", "tensorboard"}
    assert {path: path.read_bytes() for path in job.rglob("*") if path.is_file()} == before
    for machine in (workspace / "machines").glob("*/"):
        assert verify_kit(machine).findings == []
    assert not Path("/tmp/nvflare/jobs-storage").exists()


def test_a_finished_run_goes_on_to_more_rounds_and_with_one_hospital_more(workspace, tmp_path):
    first, more = tmp_path / "first", tmp_path / "more"
    export_job(JOB, first, hospitals=HOSPITALS[:2], assignments=TINY, with_package=False)
    with open_session(federation.admin_kit(workspace, federation.RESEARCHER)) as session:
        run = session.submit(first)
        assert wait_for_end(session, run) == "FINISHED:COMPLETED"
        longer = [*TINY, "rounds=4"]
        export_job(JOB, more, hospitals=HOSPITALS, assignments=longer, run=run, with_package=False)
        job_id = session.submit(more)
        assert wait_for_end(session, job_id) == "FINISHED:COMPLETED"
        left = session.download(job_id, tmp_path / "down") / "workspace" / "consortium"
    result = read_json_object(left / "result.json")
    assert (result["run"], result["complete"], result["reason"]) == (run, True, "")
    records = [json.loads(line) for line in (left / "rounds.jsonl").read_text().splitlines()]
    asked = [record["answered"] for record in records]
    assert asked == [HOSPITALS[:2], HOSPITALS[:2], HOSPITALS, HOSPITALS]


def test_where_the_data_lie_never_reaches_the_orchestrator(workspace, generated):
    data_path = str(generated).encode()
    assert data_path in (workspace / "machines" / "north" / "local" / "hospital.json").read_bytes()
    for path in (workspace / "machines" / "orchestrator").rglob("*"):
        assert not path.is_file() or data_path not in path.read_bytes(), path


@pytest.mark.parametrize("admin", [federation.OBSERVER, "steward@north.example"])
def test_who_may_not_submit_is_refused_with_a_reason(workspace, job, admin):
    with (
        open_session(federation.admin_kit(workspace, admin)) as session,
        pytest.raises(Refused) as refused,
    ):
        session.submit(job)
    assert refused.value.code == "not-authorized"
    assert f"{admin} has no right to submit_job" in str(refused.value)


def change_meta(job, *, bound=True, **changes):
    for file in ["meta.json", STUDY] if bound else ["meta.json"]:
        write_json(job / file, {**read_json_object(job / file), **changes})
    if bound:
        seal_job(job)


def test_the_submitter_learns_why_a_run_waits_or_failed(workspace, job, tmp_path, consortium):
    kit = federation.admin_kit(workspace, federation.RESEARCHER)
    waiting, failing, altered = (tmp_path / name for name in ("waiting", "failing", "altered"))
    for copy in (waiting, failing, altered):
        shutil.copytree(job, copy)
    change_meta(waiting, mandatory_clients=[*HOSPITALS, "fen"])
    change_meta(failing, consortium={"version": "9.9", "run": "", "hospitals": HOSPITALS})
    change_meta(altered, bound=False, min_clients=1)
    with open_session(kit) as session:
        waits, fails, lies = (session.submit(folder) for folder in (waiting, failing, altered))
        wait_for_end(session, fails)
        wait_for_end(session, lies)
        deadline = time.monotonic() + 90
        while not session.job(waits).get("schedule_history"):
            assert time.monotonic() < deadline
            time.sleep(0.5)
    code, printed, errors = consortium("explain", waits[:8], "--kit", kit)
    assert (code, errors) == (0, "")
    assert f"({waits}) of {federation.RESEARCHER}: waiting" in printed
    assert "- hospital fen is not connected (tried " in printed
    code, printed, errors = consortium("explain", fails, "--kit", kit)
    assert (code, errors) == (0, "")
    assert "- other-version: the job was made with version 9.9 and " in printed
    code, printed, errors = consortium("explain", lies, "--kit", kit)
    assert (code, errors) == (0, "")
    assert "- altered-job: min_clients in meta.json differs from what was submitted" in printed
    code, printed, errors = consortium("abort", waits, "--kit", kit)
    assert (code, errors) == (0, "")
    assert consortium("status", waits, "--kit", kit)[1].startswith(f"{waits} aborted")
    code, printed, errors = consortium("runs", "--kit", kit)
    assert (code, errors) == (0, "")
    assert waits[:8] in printed
    assert fails[:8] in printed
    code, printed, errors = consortium("status", "nonesuch", "--kit", kit)
    assert (code, printed) == (2, "")
    assert errors.startswith("error unknown-run: there is no such run, nonesuch")


def test_a_second_process_with_a_kit_does_not_take_over(workspace):
    kit = workspace / "machines" / "north"
    binaries = Path(sys.executable).parent
    ended = subprocess.run(
        [kit / "startup" / "sub_start.sh", "--once"],
        env={**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 78
    assert ended.stderr.startswith(
        "error kit-in-use: this kit is already running on this machine, "
    )
    assert all(machine.connected for machine in federation.status(workspace))


def test_the_guard_refuses_a_changed_kit_where_no_script_ran(workspace, tmp_path):
    kit = tmp_path / "north"
    shutil.copytree(workspace / "coordinator" / "kits" / "north", kit)
    (kit / "local" / "privacy.json").write_text('{"scopes": []}')
    started = [sys.executable, "-m", "nvflare.private.fed.app.client.client_train", "-m", kit]
    started += ["-s", "fed_client.json", "--set", "secure_train=true", "uid=north"]
    started += ["org=north", "config_folder=config"]
    ended = subprocess.run(started, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "error bad-kit: changed, differs from the file that was signed" in ended.stdout
    assert "Successfully registered" not in ended.stdout


def test_down_leaves_no_process_and_no_socket(generated, tmp_path, capsys):
    other = tmp_path / "other"
    federation.up(other, hospitals=1, data=generated)
    project, _ = read_project(other / "coordinator" / "project.yml")
    port = project.server.fed_learn_port
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    assert run_command("down", "--workspace", other) == 0
    assert capsys.readouterr().out == "stopped: harbour, orchestrator\n"
    assert processes_in(other) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert run_command("down", "--workspace", other) == 0
    assert capsys.readouterr().out == "stopped: nothing was running\n"
