import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consortium.report.curves import CurveWriter


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
    writer = writer or CurveWriter(folder)
    for record in run["rounds"]:
        writer.round(record)
    writer.finish(run["result"], run["final"])
    writer.close()


def test_a_hospitals_curves_hold_what_it_said(run, tmp_path):
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


def test_the_common_curves_say_the_score_and_who_took_part(run, tmp_path):
    write(tmp_path, run)
    told = scalars(tmp_path / "global")
    assert told["dice_validation/mean"] == [(0, 0.25), (1, 0.25), (2, 0.5625)]
    assert told["hospitals/answered"] == [(1, 3), (2, 1)]
    assert told["hospitals/refused"] == [(1, 0), (2, 1)]


def test_hyper_parameters_stand_with_their_result(run, tmp_path):
    write(tmp_path, run)
    said = read(tmp_path / "global").PluginTagToContent("hparams")
    assert b"training.learning_rate" in said["_hparams_/session_start_info"]
    assert scalars(tmp_path / "global")["hparam/dice_validation"] == [(2, 0.5625)]


def test_a_round_is_on_disk_when_it_is_closed(run, tmp_path):
    writer = CurveWriter(tmp_path)
    writer.round(run["rounds"][0])
    assert scalars(tmp_path / "north")["training/loss"] == [(1, 0.8)]
    writer.close()


def test_the_curves_of_a_resumed_run_hold_each_round_once(run, tmp_path):
    broken_off = CurveWriter(tmp_path)
    for record in run["rounds"]:
        broken_off.round(record)
    broken_off.close()
    resumed = CurveWriter(tmp_path, run["rounds"][:1])
    resumed.round(run["rounds"][1])
    resumed.close()
    assert scalars(tmp_path / "north")["training/loss"] == [(1, 0.8), (2, 0.5)]
