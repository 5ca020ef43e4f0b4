"""The classification task at a hospital, and a whole run without FLARE."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import torch
from tests.conftest import ROOT
from tests.federations import OPEN, Federation

from consortium.client.trainer import LocalTrainer
from consortium.core.errors import Failure, Refused
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import Site
from consortium.models.bundle import load_bundle, require_match
from consortium.models.networks import build_network
from consortium.protocol.metrics import Metrics
from consortium.protocol.requests import CONFOUNDING
from consortium.protocol.requests import WITHOUT as WITHOUT_REQUEST
from consortium.report.__main__ import render_run
from consortium.runs.centralised import pool_hospitals
from consortium.server.evaluations import WITHOUT
from consortium.settings.base import override
from consortium.tasks.classification.dataset import LABELS, read_radiographs, split_radiographs
from consortium.tasks.classification.loading import class_probabilities, load_radiographs
from consortium.tasks.classification.synthetic import CLINICS, generate_radiographs
from consortium.tasks.classification.task import (
    PICTURES,
    ClassificationTask,
    RadiographSampler,
)
from consortium.tasks.registry import parse_settings
from consortium.tasks.tables import read_table, write_table

CPU = torch.device("cpu")
JOB = ROOT / "jobs" / "covid_detection"
SMALL = ["rounds=2", "training.local_steps=2", "training.batch=8", "data.size=32"]
SMALL += ["network.features=[8,8]", "confounding.pictures=1"]
NAMES = [clinic.name for clinic in CLINICS]


def covid(*assignments):
    raw = read_json_object(JOB / "app" / "config" / "settings.json")
    return parse_settings(override(raw, [*SMALL, *assignments]))


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """Four hospitals of 30 and 24 patients. Tests share them and must not write into them."""
    folder = tmp_path_factory.mktemp("xrays") / "hospitals"
    clinics = [replace(clinic, patients=30, held_out=24) for clinic in CLINICS]
    generate_radiographs(folder, seed=1, side=48, clinics=clinics)
    return folder


def work_of(radiographs, tmp_path, settings, name="north", smallest_group=5):
    state = tmp_path / name
    site = Site(name, radiographs / name, state, smallest_group=smallest_group, privacy=OPEN)
    return ClassificationTask(site, settings, CPU, lambda done, of: None)


def test_a_patient_counts_once_for_each_label(radiographs, tmp_path):
    settings = covid()
    work = work_of(radiographs, tmp_path, settings)
    training, _ = split_radiographs(
        read_radiographs(radiographs / "north", settings.data), settings.data
    )
    assert len(training) > work.cases  # some have two X-rays
    assert (
        work.cases
        == work.samples
        == len({(radiograph.patient, radiograph.label) for radiograph in training})
    )
    one_pass = RadiographSampler(training, "patients").batches(10_000, np.random.default_rng(0))
    drawn = [training[index].patient for index in next(one_pass)]
    assert sorted(drawn) == sorted({radiograph.patient for radiograph in training})


@pytest.mark.parametrize("sampling", ["classes", "sources"])
def test_classes_and_sources_are_drawn_alike(radiographs, tmp_path, sampling):
    settings = covid("data.source=scanner")
    training, _ = split_radiographs(
        read_radiographs(radiographs / "north", settings.data), settings.data
    )
    training = [
        replace(radiograph, source="rare" if radiograph.patient.endswith(("2", "7")) else "common")
        for radiograph in training
    ]
    draws = next(RadiographSampler(training, sampling).batches(6000, np.random.default_rng(0)))
    labels = np.array([training[index].label for index in draws])
    shares = np.bincount(labels) / len(labels)
    if sampling == "classes":
        np.testing.assert_allclose(shares, 1 / len(shares), atol=0.03)
        return
    units = {(radiograph.patient, radiograph.label) for radiograph in training}
    held = np.bincount([label for _, label in units]) / len(units)
    np.testing.assert_allclose(shares, held, atol=0.03)
    sources = np.array([training[index].source == "rare" for index in draws])
    for label in range(3):
        held = {radiograph.source for radiograph in training if radiograph.label == label}
        if held == {"common", "rare"}:
            assert sources[labels == label].mean() == pytest.approx(0.5, abs=0.1)
    assert sources.any()


@pytest.mark.parametrize("sampling", ["patients", "classes"])
def test_the_patients_of_a_batch_are_those_whose_radiographs_are_in_it(
    radiographs, tmp_path, sampling
):
    settings = covid(f"training.sampling={sampling}", "data.augment=false")
    listing = read_radiographs(radiographs / "north", settings.data)
    training, _ = split_radiographs(listing, settings.data)
    pixels, _ = load_radiographs(training, settings.data, lambda done, of: None)
    names = sorted({radiograph.patient for radiograph in training})
    work = work_of(radiographs, tmp_path, settings)
    streams = work.batches(8, 7), work.patients_of_batches(8, 7)
    for (batch, _), patients in itertools.islice(zip(*streams, strict=True), 12):
        assert len(batch) == len(patients)
        for image, patient in zip(batch, patients, strict=True):
            same = [torch.equal(image, known) for known in pixels]
            assert training[same.index(True)].patient == names[patient]


def test_batches_are_a_function_of_the_seed(radiographs, tmp_path):
    batches = [next(work_of(radiographs, tmp_path, covid()).batches(8, seed)) for seed in (3, 3, 4)]
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])
    assert not torch.equal(batches[0][0], batches[2][0])
    assert batches[0][0].shape == (8, 1, 32, 32)


def test_an_adjusted_loss_leaves_a_class_that_the_hospital_lacks_to_the_others(
    radiographs, tmp_path
):
    work = work_of(radiographs, tmp_path, covid("training.loss=adjusted"))
    work.shares = np.array([0.75, 0.25, 0.0])
    logits = torch.tensor([[0.0, 0.0, 50.0], [0.0, 0.0, 50.0]], requires_grad=True)
    loss = work.loss(logits, torch.tensor([0, 1]))
    # As a network of the two classes would be, whose logits are those and the logs of the shares.
    assert loss.item() == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, rel=1e-5)
    loss.backward()
    assert logits.grad[:, 2].abs().max() == 0
    assert logits.grad[:, :2].abs().min() > 0


def test_a_weighted_loss_counts_every_class_alike(radiographs, tmp_path):
    work = work_of(radiographs, tmp_path, covid("training.loss=weighted"))
    work.shares = np.array([0.75, 0.25, 0.0])
    logits = torch.tensor([[1.0, 0.0, 0.0]] * 3 + [[0.0, 2.0, 0.0]])
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 0, 0, 1]), reduction="none")
    expected = (losses[:3].mean() + losses[3]) / 2
    assert float(work.loss(logits, torch.tensor([0, 0, 0, 1]))) == pytest.approx(float(expected))


def test_a_class_that_is_withheld_is_not_what_the_others_leave_of_the_weight(radiographs, tmp_path):
    settings = covid()
    work = work_of(radiographs, tmp_path, settings)
    work.units = [(str(n), label) for label, of in enumerate((15, 18, 2)) for n in range(of)]
    shares = work.probe_statistics(build_network(settings)).shares
    assert shares == {"COVID-19": 16, "pneumonia": 19}  # 35 in all, at the ratio of 15 to 18


def test_what_is_told_of_a_model_is_of_groups_and_pictures_stay(radiographs, tmp_path):
    settings = covid()
    network = build_network(settings)
    work = work_of(radiographs, tmp_path, settings)
    statistics = work.probe_statistics(network)
    assert statistics.fits(list(settings.data.classes), settings.confounding.dimensions)
    held_out = split_radiographs(
        read_radiographs(radiographs / "north", settings.data), settings.data
    )[1]
    patients = {
        name: len({radiograph.patient for radiograph in held_out if radiograph.label == number})
        for number, name in enumerate(settings.data.classes)
    }
    enough = {name: count for name, count in patients.items() if count >= 5}
    assert {name: group.count for name, group in statistics.scores.items()} == enough
    assert statistics.features.keys() == statistics.acquisition.keys() == enough.keys()
    pictures = sorted(path.name for path in (tmp_path / "north" / PICTURES).iterdir())
    assert pictures == sorted(f"{name}-1.png" for name, count in patients.items() if count)
    assert sum(statistics.shares.values()) == work.cases
    few = work_of(radiographs, tmp_path, settings, smallest_group=100).probe_statistics(network)
    assert few.model_dump() == {"shares": {}, "scores": {}, "features": {}, "acquisition": {}}


def test_a_patient_who_changes_sides_between_two_jobs_is_not_told(radiographs, tmp_path):
    """The attack: the numbers and moments of each class, with and without one patient."""
    settings = covid()
    network = build_network(settings)
    shutil.copytree(radiographs / "north", tmp_path / "data" / "north")
    first = work_of(tmp_path / "data", tmp_path, settings)
    before = first.probe_statistics(network)
    score = first.measure(network, lambda done, of: None, lambda: None).score
    table = read_table(tmp_path / "data" / "north", LABELS)
    moved = next(row for row in table.rows if row["split"] == "training")
    rows = [
        {**row, "split": "validation"} if row["patient"] == moved["patient"] else row
        for row in table.rows
    ]
    write_table(table.path, table.columns, [row.values() for row in rows])
    later = work_of(tmp_path / "data", tmp_path, settings)
    after = later.probe_statistics(network)
    assert (after.scores, after.features) == (before.scores, before.features)
    assert later.measure(network, lambda done, of: None, lambda: None).score == score
    gone = before.shares.keys() - after.shares.keys()
    assert len(gone) == 1
    assert sum(after.shares.values()) == later.cases  # what is left out is not what is left
    assert moved["label"] in settings.data.classes[gone.pop()]


def test_a_radiograph_says_the_same_alone_as_among_others(radiographs):
    settings = covid()
    network = build_network(settings).eval()
    several = read_radiographs(radiographs / "harbour", settings.data).radiographs[:5]
    together = class_probabilities(network, several, settings.data, CPU)
    alone = [
        class_probabilities(network, [radiograph], settings.data, CPU)[0] for radiograph in several
    ]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(1), 1)


def test_all_hospitals_patients_in_one_folder_keep_their_side(radiographs, tmp_path):
    settings = covid()
    folders = {name: radiographs / name for name in NAMES}
    pool_hospitals(folders, tmp_path / "pooled", settings)
    training, validation = split_radiographs(
        read_radiographs(tmp_path / "pooled", settings.data), settings.data
    )
    sides = [
        split_radiographs(read_radiographs(folder, settings.data), settings.data)
        for folder in folders.values()
    ]
    assert len(training) == sum(len(side[0]) for side in sides)
    assert len(validation) == sum(len(side[1]) for side in sides)
    assert all(radiograph.path.is_file() for radiograph in training)


def test_a_view_that_the_table_corrects_is_not_read_from_the_header(radiographs, tmp_path):
    [name] = {path.parts[-3] for path in radiographs.glob("*/images/*.dcm")}
    shutil.copytree(radiographs / name, tmp_path / name)
    for path in (tmp_path / name / "images").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.ViewPosition = "LL"
        dataset.save_as(path)
    table = read_table(tmp_path / name, LABELS)
    rows = [{**row, "view": "AP"}.values() for row in table.rows]
    columns = [*{**table.rows[0], "view": "AP"}]
    write_table(tmp_path / name / LABELS, columns, rows)
    settings = covid()
    pool_hospitals({name: tmp_path / name}, tmp_path / "pooled", settings)
    pooled = read_radiographs(tmp_path / "pooled", settings.data).radiographs
    assert len(pooled) == len(table.rows)


def start(radiographs, folder, settings, names=NAMES):
    return Federation(radiographs, folder, settings, tuple(sorted(names)), smallest_group=5)


def test_the_probe_is_in_the_result_the_model_and_the_page(radiographs, tmp_path):
    run = start(radiographs, tmp_path, covid())
    assert run.evaluations.to_leave_out == tuple(sorted(NAMES))
    result = run.rest()
    assert (result["complete"], result["reason"]) == (True, "")
    confounding = result["confounding"]
    assert confounding["verdict"] in ("confounded", "no sign", "not estimable")
    assert confounding["reported"] == sorted(NAMES)
    assert confounding["without"].keys() == set(NAMES)
    assert all(
        score["figures"]["accuracy"] is not None for score in confounding["without"].values()
    )
    for name in NAMES:
        rounds = tmp_path / "results" / "without" / name / "rounds.jsonl"
        last = rounds.read_text().splitlines()[-1]
        assert json.loads(last)["answered"] == sorted({*NAMES} - {name})
    model = tmp_path / "results" / "model"
    metadata = json.loads((model / "configs" / "metadata.json").read_text())
    assert metadata["consortium"]["trained"]["confounding"] == confounding
    render_run(tmp_path / "results")
    assert confounding["verdict"].capitalize() in (tmp_path / "results" / "report.html").read_text()
    settings, _ = load_bundle(model, CPU)
    assert settings == covid()
    with pytest.raises(Refused, match="wrong-labels"):
        require_match(settings, covid('data.classes={"a": ["covid"], "b": ["normal"]}'))


def test_a_training_without_a_hospital_goes_on_where_it_was_killed(radiographs, tmp_path):
    three = ("harbour", "north", "valley")
    run = start(radiographs, tmp_path, covid("rounds=3"), three)
    run.federation.train()
    others = []

    def ask(request, model, targets, take, **meta):
        if request == WITHOUT_REQUEST:
            others.append((len(targets), meta["round"]))
            if len(others) == 3:
                raise KeyboardInterrupt
        run.federation.ask(request, model, targets, take, **meta)

    with pytest.raises(KeyboardInterrupt):
        run.evaluations.ask_all(ask)
    killed = run.run.without("harbour")
    assert killed.state.rounds_done == 2
    assert killed.state.model_sha256 != run.state.model_sha256
    result = run.rest()
    assert result["complete"]
    undisturbed = start(radiographs, tmp_path / "again", covid("rounds=3"), three).rest()
    assert result["confounding"] == undisturbed["confounding"]


def test_hospitals_without_a_valid_answer_are_named(radiographs, tmp_path):
    run = start(radiographs, tmp_path, covid("confounding.leave_one_out=false"))
    assert run.evaluations.to_leave_out == ()
    run.federation.train()
    odd = {"valley": Failure("valley", "training-died"), "north": Metrics()}

    def ask(request, model, targets, take, **meta):
        def spoil(name, answer):
            take(name, odd.get(name, answer) if request == CONFOUNDING else answer)

        run.federation.ask(request, model, targets, spoil, **meta)

    run.evaluations.ask_all(ask)
    run.evaluations.record_without("harbour", None)
    result = run.finish()
    assert not result["complete"]
    assert (
        "the confounding probe from north (wrong-metrics), valley (training-died)"
        in (result["reason"])
    )
    assert f"{WITHOUT} from harbour (no answer)" in result["reason"]
    assert result["confounding"]["reported"] == ["harbour", "hillside"]


def test_a_labelled_folder_of_other_classes_is_refused(radiographs, tmp_path):
    settings = covid('data.classes={"a": ["cov"], "b": ["normal"]}')
    site = Site("north", radiographs / "north", tmp_path, privacy=OPEN)
    with pytest.raises(Exception, match="unknown-label"):
        LocalTrainer(site, settings, device=CPU)
    assert (radiographs / "north" / LABELS).is_file()
