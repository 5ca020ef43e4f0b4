import json
import shutil

import pytest
import torch

from consortium.client.trainer import Aborted, LocalTrainer
from consortium.core.errors import UsageError
from consortium.core.site_policy import Site, simulated_privacy
from consortium.models.networks import build_network
from consortium.protocol.codec import digest
from consortium.protocol.schema import schema_of, shared_tensors
from consortium.tasks.segmentation.datalist import read_datalist, split_cases

CPU = torch.device("cpu")


def open_hospital(folder, tmp_path, settings, *, name="north", smallest_group=1, **more):
    site = Site(
        name,
        folder / name,
        tmp_path / "state" / name,
        smallest_group=smallest_group,
        privacy=simulated_privacy(1),
    )
    return LocalTrainer(site, settings, device=CPU, **more)


def start_of(settings):
    return build_network(settings, seed=5).state_dict()


def test_an_update_is_the_change_of_all_shared_tensors(generated, tmp_path, tiny):
    settings = tiny()
    base = start_of(settings)
    update = open_hospital(generated, tmp_path, settings).train(base, 0)
    schema = schema_of(build_network(settings), local_buffers=False)
    assert set(update.tensors) == set(shared_tensors(schema)) == set(base)
    assert (update.round, update.base_sha256, update.hospital) == (0, digest(base), "north")
    training = split_cases(read_datalist(generated / "north"), 0.2).training
    assert update.cases == len(training)
    assert any(bool(tensor.any()) for tensor in update.tensors.values())
    counts = [tensor for name, tensor in update.tensors.items() if "num_batches" in name]
    assert counts
    assert all(int(count) == settings.training.local_steps for count in counts)


def test_the_same_seed_hospital_and_round_give_the_same_bytes(generated, tmp_path, tiny):
    settings = tiny("network.dropout=0.2")
    base = start_of(settings)
    first = open_hospital(generated, tmp_path / "a", settings)
    first.train(base, 1)  # what was done before must not matter
    torch.manual_seed(123)
    update = first.train(base, 0)
    other = open_hospital(generated, tmp_path / "b", settings).train(base, 0)
    assert digest(update.tensors) == digest(other.tensors)
    assert update.metrics.loss == other.metrics.loss
    assert digest(first.train(base, 1).tensors) != digest(update.tensors)


def test_another_seed_gives_other_bytes(generated, tmp_path, tiny):
    base = start_of(tiny())
    update = open_hospital(generated, tmp_path / "a", tiny("seed=0")).train(base, 0)
    other = open_hospital(generated, tmp_path / "b", tiny("seed=1")).train(base, 0)
    assert digest(update.tensors) != digest(other.tensors)


@pytest.mark.parametrize(
    "assignments",
    [
        ['network.name="segresnet"', "network.features=[4,8]", 'network.normalisation="group"'],
        ['network.name="dynunet"', "network.features=[4,8,16]", 'network.normalisation="instance"'],
        ['data.labels={"oedema": [1], "core": [2]}'],
        ['data.labels={"tumour": [1, 2], "core": [2]}'],
        ["data.augment=false", "data.cache=0"],
        ["data.spatial_dims=3", "data.size=[16,16,4]", "network.features=[4,8]"],
    ],
)
def test_other_networks_labels_and_dimensions_train_by_configuration(
    generated, tmp_path, tiny, assignments
):
    settings = tiny(*assignments)
    hospital = open_hospital(generated, tmp_path, settings)
    update = hospital.train(start_of(settings), 0)
    assert update.metrics.loss is not None
    assert set(update.metrics.validation.figures) == set(settings.data.labels)


def test_training_learns(generated, tmp_path, tiny):
    settings = tiny("training.local_steps=60", "training.batch=8", "rounds=1")
    hospital = open_hospital(generated, tmp_path, settings)
    base = start_of(settings)
    before = settings.scored.headline(hospital.validate(base).validation.figures)
    update = hospital.train(base, 0)
    trained = {name: base[name] + update.tensors[name] for name in base}
    after = settings.scored.headline(hospital.validate(trained).validation.figures)
    assert after > before + 0.2


def test_local_buffers_never_leave_and_come_back_in_the_next_round(generated, tmp_path, tiny):
    settings = tiny('update.buffers="local"')
    base = start_of(settings)
    hospital = open_hospital(generated, tmp_path, settings)
    update = hospital.train(base, 0)
    assert not any("running" in name for name in update.tensors)
    again = open_hospital(generated, tmp_path, settings)  # as after a restart of the hospital
    update, other = hospital.train(base, 1), again.train(base, 1)
    assert digest(update.tensors) == digest(other.tensors)
    # A repeated round starts from the same buffers as the first time.
    assert digest(again.train(base, 1).tensors) == digest(update.tensors)


def test_metrics_over_fewer_patients_than_the_hospital_lets_out_are_withheld(
    generated, tmp_path, tiny
):
    settings = tiny("baseline=true")
    hospital = open_hospital(generated, tmp_path, settings, smallest_group=6)
    base = start_of(settings)
    metrics = hospital.train(base, 0).metrics
    assert (metrics.loss, metrics.validation.figures) == (None, None)
    assert metrics.validation.withheld == "fewer than 6 patients"
    assert hospital.validate(base).validation.figures is None
    assert hospital.train_local(base, 1).validation.figures is None


def test_a_new_validation_patient_waits_until_there_is_a_group_of_them(hospitals, tmp_path, tiny):
    settings = tiny()
    path = hospitals / "north" / "dataset.json"
    raw = json.loads(path.read_text())
    cases = raw["training"]

    def scored(count):
        path.write_text(json.dumps({**raw, "validation": cases[:count], "training": cases[count:]}))
        trainer = open_hospital(hospitals, tmp_path, settings, smallest_group=2)
        return trainer.validate(start_of(settings)).validation

    assert scored(3).patients == 3
    assert scored(4) == scored(3)
    assert scored(2).withheld == "fewer than 2 patients changed"


def test_a_local_model_stays_at_the_hospital_and_only_its_metrics_leave(generated, tmp_path, tiny):
    settings = tiny()
    hospital = open_hospital(generated, tmp_path, settings)
    metrics = hospital.train_local(start_of(settings), settings.rounds)
    assert 0 <= metrics.validation.figures["tumour"] <= 1
    assert (tmp_path / "state" / "north" / "local.safetensors").is_file()


@pytest.mark.parametrize(
    ("stage", "step"), [("check", 1), ("train", 3), ("validate", 0), ("local", 3)]
)
def test_an_abort_is_obeyed_within_one_batch(generated, tmp_path, tiny, stage, step):
    settings = tiny("training.local_steps=1000")
    seen = []

    def report(progress):
        seen.append((progress.stage, progress.step))
        if seen[-1] == (stage, step):
            raise Aborted

    def work():
        hospital = open_hospital(generated, tmp_path, settings, report=report)
        if stage == "local":
            hospital.train_local(start_of(settings), 1)
        hospital.train(start_of(settings), 0)

    with pytest.raises(Aborted):
        work()
    assert seen[-1] == (stage, step)


def steps_of(generated, tmp_path, settings):
    reports = []
    hospital = open_hospital(generated, tmp_path, settings, report=reports.append)
    update = hospital.train(start_of(settings), 0)
    assert reports[-1].step == reports[-1].steps == update.metrics.steps
    return update.metrics.steps


def test_a_round_is_so_many_passes_where_the_job_says_so(generated, tmp_path, tiny):
    slices = 6 * json.loads((generated / "north" / "dataset.json").read_text())["numTraining"]
    everything = ("data.validation_fraction=0", "training.batch=4")
    twice = tiny(*everything, "training.local_epochs=2")
    assert steps_of(generated, tmp_path, twice) == round(2 * slices / 4)
    hardly = tiny(*everything, "training.local_epochs=0.001")
    assert steps_of(generated, tmp_path, hardly) == 1


def test_a_round_ends_when_its_time_is_up_but_not_before_one_step(generated, tmp_path, tiny):
    short = tiny("training.local_steps=100000", "training.local_minutes=0.005")
    assert 1 < steps_of(generated, tmp_path, short) < 100_000
    none = tiny("training.local_steps=1000", "training.local_minutes=1e-9")
    assert steps_of(generated, tmp_path, none) == 1


def spoil_image(folder):
    path = next((folder / "imagesTr").iterdir())
    path.write_bytes(path.read_bytes()[:500])


def spoil_channels(folder):
    raw = json.loads((folder / "dataset.json").read_text())
    raw["modality"] = {"0": "CT"}
    (folder / "dataset.json").write_text(json.dumps(raw))


def spoil_list(folder):
    raw = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(raw | {"training": []}))


@pytest.mark.parametrize(
    ("spoil", "code", "detail"),
    [
        (shutil.rmtree, "missing-folder", "no such folder"),
        (spoil_list, "data-unfit", "empty-hospital"),
        (spoil_image, "data-unfit", "unreadable-file"),
        (spoil_channels, "data-unfit", "wrong-channels"),
    ],
)
def test_every_misfit_is_one_code_and_the_detail_stays_in_the_text(
    hospitals, tmp_path, tiny, spoil, code, detail
):
    spoil(hospitals / "north")
    with pytest.raises(UsageError, match=detail) as refusal:
        open_hospital(hospitals, tmp_path, tiny())
    assert refusal.value.code == code
