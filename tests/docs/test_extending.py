"""`docs/extending.md`, followed: its files are written into a copy of the package and train."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT, TINY

from consortium.core.json_files import read_json_object
from consortium.settings.base import override

FOLLOW = Path(__file__).with_name("follow_extending.py")
SETTINGS = ROOT / "jobs/tumor_segmentation/app/config/settings.json"
# Long enough that the loss falls in any order of the batches.
LONGER = ["rounds=3", "training.local_steps=8", "training.batch=4"]
# A file's path in the text, then the block of its content.
BLOCK = re.compile(r"`(custom/consortium/\S+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)


def documented():
    """The content of each file that the document adds, by its path."""
    return dict(BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with the files of the document, and nothing else, added."""
    copy = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "custom", copy / "custom", ignore=ignored)
    for name, content in documented().items():
        assert not (copy / name).exists()
        (copy / name).write_text(content, encoding="utf-8")
    return copy


def run_in(copy, *command):
    environment = {**os.environ, "PYTHONPATH": str(copy / "custom")}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


CHOICES = {
    "network": "network.name=attention_unet",
    "rule": 'aggregation={"rule": "power_mean", "power": 0.5, "max_share": 0.5}',
}


@pytest.fixture(scope="module")
def followed(extended, generated, tmp_path_factory):
    """What training with each of `CHOICES` gave; one process, for torch and MONAI are dear."""
    raw = {
        name: override(read_json_object(SETTINGS), [*TINY, *LONGER, choice])
        for name, choice in CHOICES.items()
    }
    states = tmp_path_factory.mktemp("states")
    done = run_in(extended, str(FOLLOW), str(generated), str(states), json.dumps(raw))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_document_adds_a_network_and_a_rule_in_few_lines():
    files = documented()
    assert [Path(name).stem for name in files] == ["attention_unet", "power_mean"]
    assert max(content.count("\n") for content in files.values()) <= 20


def test_a_network_that_is_one_file_trains(followed):
    result = followed["network"]
    assert result["network"] == "AttentionUnet"
    assert result["changed"]
    assert all(losses[-1] < losses[0] for losses in result["losses"].values())


def test_a_rule_that_is_one_file_combines_what_hospitals_trained(followed):
    result = followed["rule"]
    assert result["network"] != "AttentionUnet"
    assert result["changed"]
    assert all(losses[-1] < losses[0] for losses in result["losses"].values())


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("network.name=attention", "'attention_unet', 'dynunet', 'segresnet' or 'unet'"),
        ("aggregation=power", "'norm_clipping', 'power_mean', 'trimmed_mean'"),
        ('aggregation={"rule": "power_mean", "power": -1}', "aggregation.power: Input should be"),
        ('aggregation={"rule": "weighted_mean", "power": 1}', "power is an option of power_mean"),
    ],
)
def test_names_and_options_of_the_settings_follow_the_files(extended, assignment, message):
    raw = override(read_json_object(SETTINGS), [assignment])
    load = "import json, sys; from consortium.tasks.registry import parse_settings\n"
    done = run_in(extended, "-c", load + "parse_settings(json.loads(sys.argv[1]))", json.dumps(raw))
    assert done.returncode == 1
    assert message in done.stderr


def test_the_package_itself_has_neither():
    for name in documented():
        assert not (ROOT / name).exists()
