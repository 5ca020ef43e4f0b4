import numpy as np
import pytest

from consortium.confounding.acquisition import NAMES, acquisition_features


def test_each_number_follows_what_it_is_named_for() -> None:
    rng = np.random.default_rng(0)
    plain = rng.integers(90, 160, size=(48, 64)).astype(np.uint8)

    def changed(image: np.ndarray) -> dict[str, float]:
        return dict(
            zip(NAMES, acquisition_features(image) - acquisition_features(plain), strict=True)
        )

    assert acquisition_features(plain).shape == (len(NAMES),)
    blackened = plain.copy()
    blackened[:, :4] = blackened[:, -4:] = 0
    assert changed(blackened)["sides"] < -0.4
    assert abs(changed(blackened)["top and bottom"]) < abs(changed(blackened)["sides"]) / 3
    flat = (plain // 2 + 60).astype(np.uint8)
    assert changed(flat)["contrast"] < -0.05
    smooth = plain.astype(float)
    smooth[1:-1] = (smooth[:-2] + smooth[1:-1] + smooth[2:]) / 3
    smooth[:, 1:-1] = (smooth[:, :-2] + smooth[:, 1:-1] + smooth[:, 2:]) / 3
    assert changed(smooth)["sharpness"] < -0.1


@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 40)])
def test_an_image_that_is_not_grey_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="an image of shape"):
        acquisition_features(np.zeros(shape))
