"""What a job's settings alone can get out of one hospital; its choices are the shipped ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import ROOT, TINY

from consortium.client.floors import LARGEST_SHARE, check_round
from consortium.client.trainer import LocalTrainer
from consortium.core.errors import Refused
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import ALL_COLUMNS, Privacy, Site
from consortium.kits.hospital import HospitalFile
from consortium.models.networks import build_network
from consortium.protocol.codec import digest
from consortium.protocol.update import update_to_wire
from consortium.settings.base import override
from consortium.study.job_folder import SETTINGS
from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS
from consortium.tasks.classification.dataset import LABELS
from consortium.tasks.classification.synthetic import CLINICS as XRAY_CLINICS
from consortium.tasks.classification.synthetic import generate_radiographs
from consortium.tasks.registry import parse_settings
from consortium.tasks.tables import PATIENT, read_table, write_table
from consortium.tasks.tabular.dataset import read_patients, split_table
from consortium.tasks.tabular.synthetic import CLINICS, generate_tables

LISTED = Privacy(columns=ALL_COLUMNS)
SMALL_XRAYS = ["data.size=32", "network.features=[8,8]", "confounding.pictures=0"]


def job(name, *assignments):
    return parse_settings(override(read_json_object(ROOT / "jobs" / name / SETTINGS), assignments))


def scans(folder, patients):
    clinic = replace(HOSPITALS[0], name="clinic", patients=patients, held_out=2)
    generate(folder, [clinic], seed=1, in_plane=32, slices=6)
    return ("tumor_segmentation", *TINY)


def tables(folder, patients):
    generate_tables(folder, [replace(CLINICS[0], name="clinic", patients=patients)], seed=3)
    return ("heart_disease",)


def xrays(folder, patients):
    clinic = replace(XRAY_CLINICS[0], name="clinic", patients=patients, held_out=24)
    generate_radiographs(folder, seed=1, side=48, clinics=[clinic])
    return ("covid_detection", *SMALL_XRAYS)


def open_clinic(folder, settings, *, state="state", **choices):
    choices = {"privacy": LISTED, **choices}
    site = Site("clinic", folder / "clinic", folder / state / "run", **choices)
    return LocalTrainer(site, settings, device=torch.device("cpu"))


def start_of(settings):
    return build_network(settings, seed=5).state_dict()


def code_of(refused):
    with pytest.raises(Refused) as refusal:
        refused()
    return refusal.value.code


@pytest.mark.parametrize("task", [scans, tables, xrays])
def test_a_hospital_with_one_patient_takes_no_part(task, tmp_path):
    settings = job(*task(tmp_path, 1), "training.local_steps=2", 'update.buffers="local"')

    def take_part():
        open_clinic(tmp_path, settings, smallest_group=1).train(start_of(settings), 0)

    assert code_of(take_part) == "too-few-patients"


@pytest.mark.parametrize("task", [scans, tables, xrays])
def test_an_update_of_one_patient_does_not_leave(task, tmp_path):
    settings = job(*task(tmp_path, 8), "training.local_steps=1", "training.batch=1")
    hospital = open_clinic(tmp_path, settings)
    assert code_of(lambda: hospital.train(start_of(settings), 0)) == "too-few-per-round"
    # Nor what a local model would tell by its scores, nor a training without a hospital.
    assert code_of(lambda: hospital.train_local(start_of(settings), 1)) == "too-few-per-round"
    again = code_of(lambda: hospital.train(start_of(settings), 0, keep=False))
    assert again == "too-few-per-round"


def reconstruct(change, first, base, settings):
    """Reads a row of the table from the difference of two updates by one step of one patient."""
    mean = first.tensors["0.running_mean"] + base["0.running_mean"]
    variance = first.tensors["0.running_var"] + base["0.running_var"]
    standardised = change["1.weight"][0] / change["1.bias"][0]
    return standardised * torch.sqrt(variance + 1e-7).double() + mean.double()


def test_two_jobs_that_differ_by_one_step_do_not_differ_by_its_patient(tmp_path):
    tables(tmp_path, 40)
    exact = []
    for seed in range(4):
        updates = []
        for steps in (20, 21):
            settings = job(
                "heart_disease",
                *("rounds=1", f"seed={seed}", f"training.local_steps={steps}", "training.batch=1"),
            )
            base = start_of(settings)
            hospital = open_clinic(tmp_path, settings)
            updates.append(hospital.train(base, 0))
        change = {
            name: updates[1].tensors[name].double() - updates[0].tensors[name].double()
            for name in ("1.weight", "1.bias")
        }
        row = reconstruct(change, updates[0], base, settings).numpy()
        patients = split_table(read_patients(tmp_path / "clinic"), settings.data)[0].inputs
        exact.append(bool((np.abs(patients - row).max(axis=1) < 0.02).any()))
    assert exact == [False] * 4


def test_a_round_that_time_ends_is_counted_afterwards(tmp_path):
    tables(tmp_path, 40)
    settings = job("heart_disease", "training.local_minutes=1e-9")  # one step of 4 patients
    hospital = open_clinic(tmp_path, settings)
    assert code_of(lambda: hospital.train(start_of(settings), 0)) == "too-few-per-round"


def test_a_round_that_time_ends_never_repeats_its_batches(tmp_path):
    """Of two such rounds one may end a step later."""
    tables(tmp_path, 40)
    settings = job("heart_disease", "training.local_steps=20", "training.local_minutes=1000")
    hospital, base = open_clinic(tmp_path, settings), start_of(settings)
    first, again = (hospital.train(base, 0) for _ in range(2))
    assert first.metrics.steps == again.metrics.steps == 20
    assert digest(first.tensors) != digest(again.tensors)


def test_the_secret_and_the_jobs_settings_decide_the_batches_and_a_restart_keeps_them(tmp_path):
    tables(tmp_path, 40)
    settings = job("heart_disease", "training.local_steps=20")
    base = start_of(settings)

    def change(settings=settings, state="state"):
        return digest(open_clinic(tmp_path, settings, state=state).train(base, 0).tensors)

    first = change()
    assert change() == first
    assert change(state="elsewhere") != first
    assert change(settings.model_copy(update={"cross_site": True})) != first


def test_one_patient_of_a_rare_class_that_is_drawn_often_is_too_much(tmp_path):
    xrays(tmp_path, 30)
    table = read_table(tmp_path / "clinic", LABELS)
    training = [row for row in table.rows if row["split"] == "training"]
    rare = next(row[PATIENT] for row in training if row["label"] == "covid")
    rows = [row for row in table.rows if row["label"] != "covid" or row[PATIENT] == rare]
    write_table(table.path, list(rows[0]), [list(row.values()) for row in rows])
    settings = job(
        "covid_detection", *SMALL_XRAYS, "training.sampling=classes", "training.loss=plain"
    )
    hospital = open_clinic(tmp_path, settings)
    refused = code_of(lambda: hospital.train(start_of(settings), 0))
    assert refused == "too-much-of-one-patient"


def test_a_small_hospital_is_not_refused_by_chance(tmp_path):
    """With 6 patients about every fourth order has more than a fifth of one patient."""
    tables(tmp_path, 6)
    settings = job("heart_disease", "rounds=30", "training.local_steps=10")
    hospital, base = open_clinic(tmp_path, settings), start_of(settings)
    for round_number in range(2, 30):
        hospital.train(base, round_number)


def test_the_floor_is_5_unless_the_hospital_sets_another(tmp_path):
    assert Privacy() == HospitalFile().privacy
    assert (Privacy().smallest_training, Privacy().randomness) == (5, "secret")
    settings = job(*tables(tmp_path, 4), 'update.buffers="local"')
    assert code_of(lambda: open_clinic(tmp_path, settings)) == "too-few-patients"
    open_clinic(tmp_path, settings, privacy=LISTED.model_copy(update={"smallest_training": 4}))
    higher = LISTED.model_copy(update={"smallest_training": 41})
    tables(tmp_path / "more", 40)
    assert code_of(lambda: open_clinic(tmp_path / "more", settings, privacy=higher)) == (
        "too-few-patients"
    )


def test_a_job_outside_the_limits_is_refused_with_the_key_before_data_are_opened(tmp_path):
    settings = job("heart_disease", "training.clip=1e9")
    with pytest.raises(Refused) as refusal:
        open_clinic(tmp_path / "no such folder", settings)
    assert refusal.value.code == "outside-limits"
    assert refusal.value.what == "training.clip is 1000000000; this hospital accepts 0 to 100"


def check(batches, rates=None, smallest=5):
    rates = [1.0] * len(batches) if rates is None else rates
    privacy = Privacy(smallest_training=smallest)
    refusal = check_round([np.array(batch) for batch in batches], rates, privacy)
    return refusal and refusal.code


def test_the_size_of_a_step_is_its_rate_in_equal_parts_for_its_batch():
    assert check([[0, 1, 2, 3, 4]]) is None
    assert check([[0], [1], [2], [3], [4]]) is None
    assert check([[0, 1, 2, 3, 4], [5]]) == "too-much-of-one-patient"  # half of all
    assert check([[0, 1, 2, 3, 4], [5]], rates=[1.0, 0.2]) is None
    assert check([[0, 0, 1, 2, 3, 4]]) == "too-much-of-one-patient"
    assert check([[0, 1, 2, 3]]) == "too-few-per-round"
    assert check([[0, 1, 2, 3], [3, 2, 1, 0]]) == "too-few-per-round"


def test_the_largest_share_follows_a_floor_below_5_and_stays_a_fifth_above():
    assert LARGEST_SHARE == 1 / 5
    assert check([[0, 1, 2]], smallest=3) is None
    assert check([[0, 0, 1, 2]], smallest=3) == "too-much-of-one-patient"
    ten = list(range(10))
    assert check([[*ten, 0]], smallest=10) is None
    assert check([[*ten, 0, 0, 0]], smallest=10) == "too-much-of-one-patient"


def test_nothing_of_the_secret_is_in_an_update(tmp_path):
    tables(tmp_path, 40)
    settings = job("heart_disease", "training.local_steps=20")
    update = open_clinic(tmp_path, settings).train(start_of(settings), 0)
    [secret] = [path.read_bytes() for path in tmp_path.rglob("secret")]
    buffers, plain = update_to_wire(update)
    sent = b"".join([repr(plain).encode(), *(flat.tobytes() for flat in buffers.values())])
    assert secret not in sent
    assert secret.hex().encode() not in sent
