from dataclasses import replace

import numpy as np
import pytest

from consortium.confounding.acquisition import acquisition_features
from consortium.confounding.moments import collect
from consortium.confounding.probe import site_separation
from consortium.synthetic.xrays import (
    ALIKE,
    COMMON,
    LABELS,
    MIXED,
    OWN,
    XrayScanner,
    blend_scanner,
    draw_radiograph,
    draw_radiographs,
)

SIDE = 48


def radiograph(scanner: XrayScanner, *, seed: int = 3, label: str = "covid") -> np.ndarray:
    return draw_radiograph(np.random.default_rng(seed), label, scanner, SIDE).astype(float)


def test_radiographs_are_grey_and_a_function_of_the_seed() -> None:
    first = draw_radiographs(1, 5, 0.5, side=SIDE)
    assert first.images.shape == (20, SIDE, SIDE)
    assert first.images.dtype == np.uint8
    assert first.labels.shape == first.hospitals.shape == (20,)
    again, other = draw_radiographs(1, 5, 0.5, side=SIDE), draw_radiographs(2, 5, 0.5, side=SIDE)
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.labels, first.labels)
    assert not np.array_equal(other.images, first.images)


def test_a_patient_does_not_depend_on_who_else_is_drawn() -> None:
    every = draw_radiographs(1, 4, 1.0, side=SIDE)
    few = draw_radiographs(1, 2, 1.0, side=SIDE, mixes=MIXED[:2], first=2)
    np.testing.assert_array_equal(few.images, every.images[[2, 3, 6, 7]])


def test_the_shortcut_changes_radiographs_and_no_label() -> None:
    without, full = (draw_radiographs(1, 6, shortcut, side=SIDE) for shortcut in (0.0, 1.0))
    np.testing.assert_array_equal(without.labels, full.labels)
    assert all(np.any(a != b) for a, b in zip(without.images, full.images, strict=True))
    assert all(blend_scanner(own, 0.0) == COMMON for own in OWN)
    assert blend_scanner(OWN[0], 1.0).gamma == pytest.approx(OWN[0].gamma)


def test_collimation_changes_the_border_alone() -> None:
    changed = radiograph(COMMON) != radiograph(replace(COMMON, collimation=(0.12, 0.12)))
    inner = slice(SIDE // 4, -SIDE // 4)
    assert changed.any()
    assert not changed[inner, inner].any()


def test_the_marker_changes_its_two_positions_alone() -> None:
    still = replace(COMMON, noise=0.0)
    moved = replace(still, marker=(0.75, 0.82))
    seen = []
    for seed in range(6):
        changed = radiograph(still, seed=seed) != radiograph(moved, seed=seed)
        middle = slice(SIDE // 4, -SIDE // 4)
        assert not changed[middle].any()
        assert not changed[:, middle].any()
        seen.append(changed.any())
    assert any(seen)


def test_the_grey_curve_keeps_the_order_of_greys_and_the_slope_tilts_them() -> None:
    sharp = replace(COMMON, noise=0.0, blur=0.0)
    straight, bent = radiograph(sharp), radiograph(replace(sharp, gamma=1.5))
    order = np.argsort(straight, axis=None, kind="stable")
    assert np.diff(bent.ravel()[order]).min() >= -2  # of 255, by rounding
    assert bent.mean() < straight.mean() - 10
    tilt = radiograph(replace(sharp, slope=(0.1, 0.0))) - straight
    half = SIDE // 2
    assert tilt[8:-8, half:-8].mean() > 5 > -5 > tilt[8:-8, 8:half].mean()


def test_without_a_shortcut_borders_and_histogram_do_not_reveal_the_hospital() -> None:
    separation = {}
    for shortcut in (0.0, 1.0):
        radiographs = draw_radiographs(4, 40, shortcut, side=SIDE, mixes=ALIKE)
        values = np.stack([acquisition_features(image) for image in radiographs.images])
        names = np.char.add("h", radiographs.hospitals.astype(str))
        labels = np.array(LABELS)[radiographs.labels]
        result = site_separation(collect(values, names, labels, range(len(names)), 9))
        assert result is not None
        separation[shortcut] = result
    assert separation[0.0].p > 0.001
    assert separation[1.0].p < 1e-6
    assert separation[1.0].auc > 0.9 > separation[0.0].auc


def test_a_severe_disease_is_denser_and_a_healthy_chest_has_none() -> None:
    rng = np.random.default_rng
    for label in LABELS:
        mild, severe = (draw_radiograph(rng(0), label, COMMON, SIDE, grade) for grade in (0.2, 2.0))
        apart = severe.astype(float).mean() - mild.astype(float).mean()
        assert apart == 0 if label == "normal" else apart > 0.5


def test_a_shortcut_beyond_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="the shortcut is"):
        draw_radiographs(0, 1, 1.5)
