import numpy as np
from tests.report.conftest import open_picture

from consortium.imaging.pictures import side_by_side


def test_scan_truth_and_prediction_stand_upright_side_by_side():
    scan = np.zeros((32, 24))
    scan[4:8, 18:22] = 1000  # the patient's left (low x), front (high y)
    truth, predicted = scan > 0, np.zeros_like(scan, bool)
    predicted[20:30, 2:6] = True
    picture = open_picture(side_by_side(scan, truth, predicted, height=240))
    assert picture.shape == (240, 3 * 320 + 2 * 4, 3)
    plain, with_truth, with_predicted = picture[:, :320], picture[:, 324:644], picture[:, 648:]
    # x grows to the patient's right, which is shown on the left; y to the front, shown above.
    assert (plain[20:60, 240:280] == 255).all()
    assert not plain[60:].any()
    assert not plain[:, :240].any()
    coloured = np.ptp(with_truth.astype(int), axis=-1) > 0
    rows, columns = np.nonzero(coloured)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 59, 240, 279)
    assert not coloured[30:50, 250:270].any()
    rows, columns = np.nonzero(np.ptp(with_predicted.astype(int), axis=-1) > 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (180, 219, 20, 119)


def test_the_outlines_keep_their_colours_and_the_scan_its_greys():
    scan = np.linspace(0, 1, 32 * 32).reshape(32, 32)
    truth = np.zeros_like(scan, bool)
    truth[8:24, 8:24] = True
    seen = open_picture(side_by_side(scan, truth, truth, height=320)).reshape(-1, 3)
    coloured = {tuple(colour) for colour in seen[np.ptp(seen.astype(int), axis=-1) > 0].tolist()}
    assert coloured == {(64, 176, 255), (255, 193, 7)}
    greys = seen[np.ptp(seen.astype(int), axis=-1) == 0][:, 0]
    assert (greys.min(), greys.max()) == (0, 255)
    assert len(set(greys.tolist())) > 200
