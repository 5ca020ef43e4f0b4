import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.conftest import ROOT
from tests.federations import OPEN, Federation

from consortium.cli.models import require_inputs
from consortium.client.trainer import LocalTrainer
from consortium.core.errors import Refused
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import Site
from consortium.models.bundle import load_bundle, require_match, write_bundle
from consortium.models.networks import build_network
from consortium.protocol.codec import digest
from consortium.protocol.schema import schema_of, shared_tensors
from consortium.report.__main__ import render_run
from consortium.runs.centralised import pool_hospitals
from consortium.settings.base import override
from consortium.tasks.registry import parse_settings
from consortium.tasks.tables import write_table
from consortium.tasks.tabular.dataset import read_patients, split_table
from consortium.tasks.tabular.predict import predict
from consortium.tasks.tabular.synthetic import CLINICS, generate_tables

CPU = torch.device("cpu")
JOB = ROOT / "jobs" / "heart_disease"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    generate_tables(folder, seed=3)
    return folder


def heart(*assignments):
    raw = read_json_object(JOB / "app" / "config" / "settings.json")
    small = ["rounds=3", "training.local_steps=20"]
    return parse_settings(override(raw, [*small, *assignments]))


def open_hospital(tables, tmp_path, settings, name="north", smallest_group=5):
    state = tmp_path / "state" / name
    site = Site(name, tables / name, state, smallest_group=smallest_group, privacy=OPEN)
    return LocalTrainer(site, settings, device=CPU)


def start_of(settings):
    return build_network(settings, seed=5).state_dict()


def run(tables, tmp_path, settings):
    """All rounds and the final scoring, without FLARE."""
    names = tuple(sorted(clinic.name for clinic in CLINICS))
    federation = Federation(tables, tmp_path, settings, names, smallest_group=5)
    models = [dict(federation.state.model)]
    models += [dict(federation.round()) for _ in range(settings.rounds)]
    return models, federation.rest()


def all_training_patients(tables, settings):
    parts = [split_table(read_patients(tables / c.name), settings.data)[0].inputs for c in CLINICS]
    return np.concatenate(parts).astype(float)


def test_the_averaged_statistics_are_those_of_all_training_patients(tables, tmp_path):
    settings = heart()
    models, _ = run(tables, tmp_path, settings)
    patients, numbers = all_training_patients(tables, settings), len(settings.data.numbers)
    for model in models[2:]:
        mean, variance = model["0.running_mean"].numpy(), model["0.running_var"].numpy()
        assert mean[:numbers] == pytest.approx(patients[:, :numbers].mean(0), rel=1e-5)
        assert variance[:numbers] == pytest.approx(patients[:, :numbers].var(0), rel=1e-4)
        # The sum of a category is a count of patients, which may be few.
        assert not mean[numbers:].any()
        assert (variance[numbers:] == 1).all()


def test_statistics_that_stay_here_never_leave(tables, tmp_path):
    settings = heart('update.buffers="local"')
    hospital = open_hospital(tables, tmp_path, settings)
    update = hospital.train(start_of(settings), 0)
    schema = schema_of(build_network(settings), local_buffers=True)
    assert set(update.tensors) == set(shared_tensors(schema))
    assert not any("running" in name for name in update.tensors)
    own = hospital.with_own_buffers(start_of(settings))
    patients = split_table(read_patients(tables / "north"), settings.data)[0].inputs
    assert own["0.running_mean"].numpy() == pytest.approx(patients.mean(0), abs=1e-6)
    assert own["0.running_var"].numpy() == pytest.approx(patients.var(0, ddof=1), abs=1e-6)


def test_too_few_patients_for_a_statistic_are_refused(tables, tmp_path):
    with pytest.raises(Refused) as refusal:
        open_hospital(tables, tmp_path, heart(), "hillside", smallest_group=21)
    assert refusal.value.code == "too-few-to-average"
    open_hospital(tables, tmp_path, heart('update.buffers="local"'), "hillside", smallest_group=21)


def test_the_same_seed_hospital_and_round_give_the_same_bytes(tables, tmp_path):
    settings = heart()
    first, again = (open_hospital(tables, tmp_path / name, settings) for name in "ab")
    first.train(start_of(settings), 1)
    update, repeated = (hospital.train(start_of(settings), 0) for hospital in (first, again))
    assert digest(update.tensors) == digest(repeated.tensors)
    assert digest(first.train(start_of(settings), 1).tensors) != digest(update.tensors)


def test_a_run_learns_and_its_page_has_the_text_of_its_task(tables, tmp_path):
    settings = heart("rounds=4", "training.local_steps=100", "training.learning_rate=0.02")
    _, result = run(tables, tmp_path, settings)
    assert result["complete"] is True, result["reason"]
    north = next(row for row in result["hospitals"] if row["name"] == "north")
    assert north["federated"]["figures"]["accuracy"] > 0.65
    assert north["federated"]["figures"]["AUROC"] > 0.7
    assert sum(north["federated"]["support"].values()) == north["federated"]["patients"] == 60
    render_run(tmp_path / "results")
    page = (tmp_path / "results" / "report.html").read_text()
    for word in ("logistic regression that predicts heart disease", "AUROC", "accuracy"):
        assert word in page
    assert "Dice" not in page


def test_a_local_model_takes_the_hospitals_own_statistics(tables, tmp_path):
    settings = heart()
    hospital = open_hospital(tables, tmp_path, settings)
    score = hospital.train_local(start_of(settings), 2).validation
    assert score.patients == 60
    assert hospital.own_model.is_file()


def test_the_pooled_folder_keeps_every_patient_on_its_side(tables, tmp_path):
    settings = heart()
    pool_hospitals({c.name: tables / c.name for c in CLINICS}, tmp_path / "pooled", settings)
    training, validation = split_table(read_patients(tmp_path / "pooled"), settings.data)
    for clinic in CLINICS:
        ours = split_table(read_patients(tables / clinic.name), settings.data)
        for part, pooled in zip(ours, (training, validation), strict=True):
            assert {f"{clinic.name}/{name}" for name in part.names} <= {*pooled.names}
    assert training.inputs.shape == all_training_patients(tables, settings).shape


def test_the_bundle_predicts_by_itself_what_the_network_does(tables, tmp_path):
    settings = heart()
    models, _ = run(tables, tmp_path, settings)
    folder = tmp_path / "model"
    write_bundle(folder, settings, models[-1], trained={})
    opened, network = load_bundle(folder, CPU)
    assert opened == settings
    patients = split_table(read_patients(tables / "north"), settings.data)[1]
    expected = predict(network, patients, CPU)
    rows = [row for row in read_patients(tables / "north").rows if row["split"] == "validation"]
    table = tmp_path / "new.csv"
    write_table(table, list(rows[0]), [list(row.values()) for row in rows])
    code = (
        "from monai.bundle import ConfigParser; p = ConfigParser(); "
        f"p.read_config({str(folder / 'configs' / 'inference.json')!r}); "
        f"p['bundle_root'] = {str(folder)!r}; p['table'] = {str(table)!r}; "
        "p.get_parsed_content('run')"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path)
    printed = dict(line.split(",") for line in out.splitlines())
    assert [float(printed[name]) for name in patients.names] == pytest.approx(expected, abs=1e-5)
    assert json.loads((folder / "configs" / "metadata.json").read_text())["task"] == "tabular"


def test_a_model_of_other_columns_or_another_task_is_refused(tables, tmp_path, tiny):
    settings = heart()
    other = heart('data.categories={"sex": ["0", "1"]}')
    with pytest.raises(Refused, match="wrong-columns"):
        require_match(other, settings)
    with pytest.raises(Refused, match="wrong-task"):
        require_match(tiny(), settings)
    with pytest.raises(Refused, match="wrong-task"):
        require_inputs(settings, [tmp_path / "scan.nii.gz"], tmp_path / "model")


def test_a_model_that_needs_a_hospitals_own_statistics_cannot_be_opened(tmp_path):
    settings = heart('update.buffers="local"')
    write_bundle(tmp_path / "model", settings, start_of(settings), trained={})
    with pytest.raises(Refused, match="not-standalone"):
        load_bundle(tmp_path / "model", CPU)
