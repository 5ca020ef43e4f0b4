import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tests.conftest import JOB
from tests.report.conftest import picture, score

from consortium.report.curves import CurveWriter, write_pictures
from consortium.tasks.registry import load_settings

SETTINGS = load_settings(JOB / "app" / "config" / "settings.json")


def read(folder):
    [events] = folder.glob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return accumulator


def scalars(folder):
    accumulator = read(folder)
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def write(folder, run, writer=None):
    writer = writer or CurveWriter(folder, (), SETTINGS)
    for record in run["rounds"]:
        writer.round(record)
    writer.finish(run["result"], run["final"])
    writer.close()


def test_a_hospitals_curves_hold_what_it_reported(run, tmp_path):
    write(tmp_path, run)
    assert scalars(tmp_path / "north") == {
        "dice_validation/tumour": [(0, 0.2), (1, 0.25), (2, 0.5)],
        "dice_validation/mean": [(0, 0.2), (1, 0.25), (2, 0.5)],
        "training/loss": [(1, 0.8), (2, 0.5)],
        "training/seconds": [(1, 2.0), (2, 2.0)],
        "training/cases": [(1, 10), (2, 10)],
    }


def test_what_a_hospital_withheld_is_in_no_curve(run, tmp_path):
    write(tmp_path, run)
    assert set(scalars(tmp_path / "west")) == {"training/seconds", "training/cases"}


def test_the_global_curves_hold_the_score_and_the_attendance(run, tmp_path):
    write(tmp_path, run)
    curves = scalars(tmp_path / "global")
    assert curves["dice_validation/mean"] == [(0, 0.25), (1, 0.25), (2, 0.5625)]
    assert curves["hospitals/answered"] == [(1, 3), (2, 1)]
    assert curves["hospitals/refused"] == [(1, 0), (2, 1)]


def test_the_local_and_centralised_models_are_level_lines(run, tmp_path):
    run["result"]["hospitals"][1]["centralised"] = score(0.875, 24)
    write(tmp_path, run)
    assert scalars(tmp_path / "north" / "local") == {
        "dice_validation/tumour": [(0, 0.625), (2, 0.625)],
        "dice_validation/mean": [(0, 0.625), (2, 0.625)],
    }
    centralised = scalars(tmp_path / "north" / "centralised")
    assert centralised["dice_validation/mean"] == [(0, 0.875), (2, 0.875)]
    # (8 x 0.5 + 24 x 0.625) / 32; not every hospital has a centralised score.
    together = scalars(tmp_path / "global" / "local")
    assert together == {"dice_validation/mean": [(0, 0.59375), (2, 0.59375)]}
    assert not (tmp_path / "global" / "centralised").exists()
    assert not (tmp_path / "west" / "local").exists()


def test_hyper_parameters_stand_with_their_results(run, tmp_path):
    write(tmp_path, run)
    content = read(tmp_path / "global").PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    training = run["result"]["settings"]["training"]
    rate = start.hparams["training.learning_rate"].number_value
    assert rate == pytest.approx(training["learning_rate"])
    assert start.hparams["network.name"].string_value == "unet"
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    results = {info.name.tag for info in experiment.metric_infos}
    assert results == {"hparam/dice_federated", "hparam/dice_local"}
    curves = scalars(tmp_path / "global")
    assert curves["hparam/dice_federated"] == [(2, 0.5625)]
    assert curves["hparam/dice_local"] == [(2, 0.59375)]


def test_pictures_are_read_back_unchanged_and_once(run, tmp_path):
    write(tmp_path, run)
    shown = [picture("north", 1), picture("east", 2)]
    write_pictures(tmp_path, [picture("west")], 1)
    write_pictures(tmp_path, shown, 2)
    images = read(tmp_path / "global" / "pictures")
    assert set(images.Tags()["images"]) == {"pictures/north", "pictures/east"}
    for expected in shown:
        [event] = images.Images(f"pictures/{expected.hospital}")
        assert event.encoded_image_string == expected.png
        assert (event.step, event.width, event.height) == (2, 3 * 288 + 8, 288)
    assert scalars(tmp_path / "global")["dice_validation/mean"]


def test_a_round_is_on_disk_when_it_is_closed(run, tmp_path):
    writer = CurveWriter(tmp_path, (), SETTINGS)
    writer.round(run["rounds"][0])
    assert scalars(tmp_path / "north")["training/loss"] == [(1, 0.8)]
    writer.close()


def test_the_curves_of_a_resumed_run_hold_each_round_once(run, tmp_path):
    broken_off = CurveWriter(tmp_path, (), SETTINGS)
    for record in run["rounds"]:
        broken_off.round(record)
    broken_off.close()
    resumed = CurveWriter(tmp_path, run["rounds"][:1], SETTINGS)
    resumed.round(run["rounds"][1])
    resumed.close()
    assert scalars(tmp_path / "north")["training/loss"] == [(1, 0.8), (2, 0.5)]
