import json

import pytest
from tests.conftest import JOB, ROOT

from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object
from consortium.models.networks import build_network
from consortium.settings.base import override
from consortium.tasks.registry import load_settings, parse_settings

SETTINGS = JOB / "app" / "config" / "settings.json"


def test_the_jobs_own_settings_are_complete_and_survive_a_round_trip():
    raw = read_json_object(SETTINGS)
    assert load_settings(SETTINGS).model_dump(by_alias=True, mode="json") == raw


HEART = ROOT / "jobs" / "heart_disease"


@pytest.mark.parametrize("file", ["app/config/settings.json", "variants/flamby.json"])
def test_the_settings_of_a_job_of_tables_are_complete(file):
    settings = load_settings(HEART / file)
    assert settings.model_dump(by_alias=True, mode="json") == read_json_object(HEART / file)
    assert len(settings.data.inputs) == 13
    assert build_network(settings).state_dict()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("task=x", 'there is no task "x", --set, choose segmentation or classification'),
        ("task=[1]", "there is no task [1], --set, choose segmentation or classification"),
        ("data.channels=3", "error unknown-setting: there is no setting data.channels"),
        ('data.numbers={"age": [9, 1]}', "setting data: numbers.age: give the lowest"),
        ('data.categories={"num": ["0", "1"]}', "setting data: a column has one use"),
        ('data.categories={"sex": ["0", "0"]}', "setting data: categories.sex: a value is listed"),
        ('data.outcome.classes={"a": ["0"]}', "setting data.outcome.classes: "),
        (
            'data.outcome.classes={"a": ["0"], "b": ["0"]}',
            "setting data.outcome: classes: a value belongs to one class",
        ),
        ("training.optimiser=adam", "setting training.optimiser: Input should be 'adamw' or 'sgd'"),
    ],
)
def test_a_wrong_setting_of_a_job_of_tables_is_named(assignment, message):
    raw = read_json_object(HEART / "app" / "config" / "settings.json")
    with pytest.raises(UsageError) as refusal:
        parse_settings(override(raw, [assignment]), "--set")
    assert message in str(refusal.value)


def test_a_job_without_a_task_is_a_segmentation():
    raw = read_json_object(SETTINGS)
    del raw["task"]
    assert parse_settings(raw) == load_settings(SETTINGS)


def test_flips_are_named_or_refused():
    raw = read_json_object(SETTINGS)
    some = parse_settings(override(raw, ['data.augment={"flips": ["left-right"]}']))
    assert some.data.augment.flips == ["left-right"]
    with pytest.raises(UsageError, match=r"error bad-setting: setting data\.augment\.flips\.0: "):
        parse_settings(override(raw, ['data.augment={"flips": ["x"]}']))


@pytest.mark.parametrize("name", ["brats", "hippocampus"])
def test_a_variant_names_every_setting_and_has_a_network(name):
    file = JOB / "variants" / f"{name}.json"
    settings = load_settings(file)
    assert settings.model_dump(by_alias=True, mode="json") == read_json_object(file)
    assert build_network(settings).state_dict()
    assert {path.stem for path in file.parent.iterdir()} == {"brats", "hippocampus"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.steps=5", "error unknown-setting: there is no setting training.steps, --set"),
        ("nothing=5", "error unknown-setting: there is no setting nothing, --set"),
        ("rounds.more=5", "error unknown-setting: there is no setting rounds.more, --set"),
        ("rounds", "error bad-assignment: 'rounds' is not KEY=VALUE, --set"),
        (
            "rounds=0",
            "error bad-setting: setting rounds: Input should be greater than or equal to 1 "
            "(given: 0), --set, correct the value",
        ),
        ("rounds=many", "error bad-setting: setting rounds: Input should be a valid integer"),
        ("training.batch=99999999999999999999", "error bad-setting: setting training.batch: "),
        ("training.local_epochs=1e30", "error bad-setting: setting training.local_epochs: "),
        (
            'server.adaptive={"method": "adam", "beta2": 1}',
            "error bad-setting: setting server.adaptive.beta2: Input should be less than 1",
        ),
        (
            "network.name=resnet",
            "error bad-setting: setting network.name: Input should be 'dynunet', "
            "'segresnet' or 'unet'",
        ),
        ("data.size=[64]", "error bad-setting: setting data.size: List should have at least 2"),
        (
            "data.size=[64,64,64]",
            "error bad-setting: setting data: size needs 2 numbers in 2-D",
        ),
        (
            'data.labels={"tumour": [0]}',
            "error bad-setting: setting data: labels.tumour: values are 1 to 255",
        ),
        ("update.max_cases=200000", "error bad-setting: setting update.max_cases: Input should"),
    ],
)
def test_a_setting_that_is_refused_is_named_by_its_path(assignment, message):
    with pytest.raises(UsageError) as refusal:
        parse_settings(override(read_json_object(SETTINGS), [assignment]), "--set")
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_values_are_json_or_else_text_and_the_original_is_not_changed():
    raw = read_json_object(SETTINGS)
    before = json.dumps(raw)
    changed = override(
        raw, ["rounds=3", "data.size=[8, 8]", "model.from=some/path", "baseline=true"]
    )
    assert json.dumps(raw) == before
    settings = parse_settings(changed)
    assert (settings.rounds, settings.data.size, settings.baseline) == (3, [8, 8], True)
    assert settings.model.from_ == "some/path"


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"'])
def test_a_file_that_is_no_json_object_is_refused_with_its_path(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="bad-json") as refusal:
        load_settings(path)
    assert str(path) in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="error missing-file: no such file"):
        load_settings(tmp_path / "settings.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('"mean"', "aggregation"),
        ('{"rule": "weighted_mean", "max_share": 0.4}', "max_share is an option of"),
        ('{"rule": "norm_clipping", "trim": 0.1}', "trim is an option of trimmed_mean"),
        ('{"rule": "trimmed_mean", "trim": 0.5}', "aggregation.trim"),
        ('{"rule": "norm_clipping", "share": 0.4}', "no setting aggregation.share"),
    ],
)
def test_a_rule_and_its_options_fit_together(given, message):
    with pytest.raises(UsageError, match=message):
        parse_settings({**read_json_object(SETTINGS), "aggregation": json.loads(given)})


def test_a_rule_is_a_name_or_an_object_with_options():
    plain = parse_settings({**read_json_object(SETTINGS), "aggregation": "norm_clipping"})
    assert (plain.rule.rule, plain.rule.options) == ("norm_clipping", {})
    chosen = {"rule": "trimmed_mean", "trim": 0.1, "max_share": 0.4}
    rule = parse_settings({**read_json_object(SETTINGS), "aggregation": chosen}).rule
    assert (rule.rule, rule.options) == ("trimmed_mean", {"trim": 0.1, "max_share": 0.4})
