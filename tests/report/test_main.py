"""The process that renders the page and the curves."""

import json
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consortium.report.page import render_report


def write(folder, run, rounds):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) + "\n" for record in run["rounds"][:rounds]]
    (folder / "rounds.jsonl").write_text("".join(lines))


def losses(folder):
    if not folder.is_dir():
        return []
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    if "training/loss" not in accumulator.Tags()["scalars"]:
        return []
    return [event.step for event in accumulator.Scalars("training/loss")]


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture
def follow(tmp_path, run):
    started = []

    def start():
        command = [sys.executable, "-m", "consortium.report", "--follow", tmp_path]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        process.stdin.write(json.dumps(run["result"]["settings"]) + "\n")
        process.stdin.flush()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_curves_grow_with_the_run_and_the_page_comes_at_its_end(run, tmp_path, follow):
    write(tmp_path, run, 1)
    process = follow()
    wait_for(lambda: losses(tmp_path / "tensorboard" / "north") == [1])
    assert not (tmp_path / "report.html").exists()
    write(tmp_path, run, 2)
    write(tmp_path / "without" / "west", run, 1)
    wait_for(lambda: losses(tmp_path / "tensorboard" / "north") == [1, 2])
    wait_for(lambda: losses(tmp_path / "without" / "west" / "tensorboard" / "north") == [1])
    result = {**run["result"], "final": run["final"]}
    (tmp_path / "result.json").write_text(json.dumps(result))
    process.communicate("finish\n", timeout=60)
    assert process.returncode == 0
    page = (tmp_path / "report.html").read_text()
    assert page == render_report(result, run["rounds"], final=run["final"])
    accumulator = EventAccumulator(str(tmp_path / "tensorboard" / "global"))
    accumulator.Reload()
    assert "hparam/dice_federated" in accumulator.Tags()["scalars"]


def test_where_the_run_is_killed_its_curves_end_without_a_page(run, tmp_path, follow):
    write(tmp_path, run, 2)
    process = follow()
    process.stdin.close()
    assert process.wait(60) == 0
    assert losses(tmp_path / "tensorboard" / "north") == [1, 2]
    assert not (tmp_path / "report.html").exists()


def test_an_unfinished_line_is_read_later(run, tmp_path, follow):
    write(tmp_path, run, 2)
    whole = (tmp_path / "rounds.jsonl").read_text()
    (tmp_path / "rounds.jsonl").write_text(whole[:-20])
    follow()
    wait_for(lambda: losses(tmp_path / "tensorboard" / "north") == [1])
    (tmp_path / "rounds.jsonl").write_text(whole)
    wait_for(lambda: losses(tmp_path / "tensorboard" / "north") == [1, 2])


def test_neither_torch_nor_monai_is_loaded():
    program = (
        "import sys, consortium.report.__main__; "
        "print({'torch', 'monai', 'nvflare'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"
