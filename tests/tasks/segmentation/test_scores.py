import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from consortium.tasks.scores import summarise
from consortium.tasks.segmentation.scores import dice, group_score, hausdorff95, score_case


def block(*slices: slice, size: int = 12) -> torch.Tensor:
    mask = torch.zeros(1, size, size, size, dtype=torch.uint8)
    mask[(0, *slices)] = 1
    return mask


EMPTY = torch.zeros(1, 12, 12, 12, dtype=torch.uint8)
CUBE = block(slice(2, 6), slice(2, 6), slice(2, 6))


def test_dice_of_two_empty_masks_is_one_and_of_one_empty_mask_zero():
    assert dice(EMPTY, EMPTY) == [1.0]
    assert dice(CUBE, EMPTY) == dice(EMPTY, CUBE) == [0.0]


def test_dice_of_a_known_overlap():
    half = block(slice(2, 4), slice(2, 6), slice(2, 6))
    assert dice(half, CUBE) == [pytest.approx(2 * 32 / (32 + 64))]


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
def test_dice_is_symmetric_and_one_for_equal_masks(first, second):
    masks = [
        torch.tensor([bits >> i & 1 for i in range(16)]).reshape(1, 2, 2, 4)
        for bits in (first, second)
    ]
    assert dice(*masks) == dice(*masks[::-1])
    assert 0 <= dice(*masks)[0] <= 1
    assert dice(masks[0], masks[0]) == [1.0]


def test_hd95_is_in_millimetres_of_the_axis():
    moved = block(slice(2, 6), slice(2, 6), slice(4, 8))
    assert hausdorff95(moved, CUBE, (1, 1, 1)) == [pytest.approx(2)]
    assert hausdorff95(moved, CUBE, (1, 1, 3.5)) == [pytest.approx(7)]


def test_hd95_without_masks_is_zero_and_with_one_mask_unknown():
    assert hausdorff95(EMPTY, EMPTY, (1, 1, 1)) == [0.0]
    assert hausdorff95(CUBE, EMPTY, (1, 1, 1)) == hausdorff95(EMPTY, CUBE, (1, 1, 1)) == [None]


def test_a_case_is_scored_by_structure_with_volumes_in_millilitres():
    scores = score_case(
        torch.cat([CUBE, EMPTY]), torch.cat([CUBE, CUBE]), (1, 2, 5), ["a", "b"], distances=True
    )
    assert scores == {
        "dice": {"a": 1.0, "b": 0.0},
        "hd95": {"a": 0.0, "b": None},
        "volume_ml": {
            "a": {"predicted": 0.64, "true": 0.64},
            "b": {"predicted": 0.0, "true": 0.64},
        },
    }
    assert score_case(CUBE, CUBE, (1, 1, 1), ["a"], distances=False) == {"dice": {"a": 1.0}}


def test_the_interval_is_the_same_every_time_and_holds_the_mean():
    values = np.random.default_rng(0).uniform(0.3, 1, 25)
    first, again = summarise(values), summarise(list(values))
    assert first == again
    assert first.cases == 25
    low, high = first.interval
    assert low < first.mean < high
    spread = 1.96 * values.std() / 5
    assert (low, high) == pytest.approx((first.mean - spread, first.mean + spread), abs=0.01)


def test_patients_without_a_score_are_left_out_and_one_patient_has_no_interval():
    assert summarise([]).mean is None
    summary = summarise([None, 0.5])
    assert (summary.cases, summary.mean, summary.median, summary.interval) == (1, 0.5, 0.5, None)
    assert summarise([0.5, 0.5]).interval == (0.5, 0.5)


def test_a_score_over_few_patients_is_withheld():
    patients = [[{"tumour": value}] for value in (0.6, 0.7, 0.8, 0.9, 0.5)]
    value, score = group_score(patients, 5)
    assert (value, score.patients, score.figures) == (pytest.approx(0.7), 5, {"tumour": value})
    [low, high] = score.interval["tumour"]
    assert 0.5 < low < 0.7 < high < 0.9
    value, small = group_score(patients[:4], 5)
    assert value == pytest.approx(0.75)
    assert (small.figures, small.interval, small.patients) == (None, None, None)
    assert small.withheld == "fewer than 5 patients"
    assert "0.7" not in small.model_dump_json()


def test_scans_of_one_patient_count_as_one_patient():
    value, score = group_score([[{"a": 0.0}, {"a": 1.0}], [{"a": 1.0}]], 1)
    assert (value, score.patients) == (0.75, 2)
    assert group_score([[{"a": 0.5}]], 1)[1].interval is None
