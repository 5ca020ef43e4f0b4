import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.transforms import Compose
from PIL import ExifTags, Image

from consortium.core.errors import UsageError
from consortium.synthetic.xrays import LABELS, OWN, draw_radiograph
from consortium.tasks.classification.settings import Radiographs
from consortium.tasks.classification.transforms import (
    SHIFT,
    augment,
    lung_box,
    prepare,
    preprocessing_config,
)

INTENSITIES = ("zscore", "percentiles", "equalise")


def radiographs(**changes: object) -> Radiographs:
    return Radiographs.model_validate(
        {"classes": {"ill": ["a"], "well": ["b"]}, "size": 32} | changes
    )


def drawn(rows: int = 90, columns: int = 130) -> np.ndarray:
    """An X-ray with unequal sides, so that swapping rows and columns is noticed."""
    radiograph = draw_radiograph(np.random.default_rng(1), "covid", OWN[0], 130)
    return radiograph[:rows, :columns]


def run_config(path, data: Radiographs) -> torch.Tensor:
    config = ConfigParser({"steps": preprocessing_config(data)})
    return Compose(config.get_parsed_content("steps"))({"image": str(path)})["image"]


# Where pydicom is installed, MONAI makes a reader that asks for a GPU's library.
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
@pytest.mark.parametrize("intensity", INTENSITIES)
@pytest.mark.parametrize("border", [0.0, 0.13])
@pytest.mark.parametrize("size", [32, 160])
@pytest.mark.parametrize("kind", ["8.png", "8.jpg", "turned.jpg", "16.png", "colour.png"])
def test_the_bundles_preprocessing_of_a_file_is_that_of_training(
    tmp_path, intensity, border, size, kind
):
    data = radiographs(intensity=intensity, border=border, size=size)
    stored, path = drawn(), tmp_path / f"X-ray{kind}"
    image = Image.fromarray(stored.astype(np.uint16) * 257 if kind == "16.png" else stored)
    exif = Image.Exif()
    if kind == "turned.jpg":
        exif[ExifTags.Base.Orientation] = 6  # shown turned to the right
    (image.convert("RGB") if kind == "colour.png" else image).save(path, exif=exif)
    if path.suffix == ".jpg":
        stored = np.rot90(np.asarray(Image.open(path)), -1 if kind == "turned.jpg" else 0)
    theirs = run_config(path, data)
    ours = prepare(stored.astype(np.float32) / 255, data)
    assert type(theirs) is torch.Tensor
    assert theirs.dtype == torch.float32
    assert theirs.shape == (1, size, size)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=2e-5)
    assert ours.std() > 0.1


def test_the_configuration_is_monais_alone_and_json():
    for intensity in INTENSITIES:
        steps = preprocessing_config(radiographs(intensity=intensity, border=0.1))
        assert all(step["_target_"].startswith("monai.") for step in steps)
        assert "consortium" not in str(steps)


def test_a_zscored_radiograph_has_mean_0_and_deviation_1():
    radiograph = prepare(drawn().astype(np.float32), radiographs())
    assert radiograph.mean() == pytest.approx(0, abs=1e-5)
    assert radiograph.std() == pytest.approx(1, abs=1e-5)


def test_the_percentiles_become_0_and_1_and_what_is_beyond_is_cut():
    radiograph = prepare(drawn().astype(np.float32), radiographs(intensity="percentiles"))
    assert (radiograph.min(), radiograph.max()) == (0, 1)
    for end in (0, 1):
        assert (radiograph == end).mean() == pytest.approx(0.01, abs=0.003)


def test_equalising_makes_the_histogram_flat():
    values = drawn().astype(np.float32) / 255
    radiograph = prepare(values, radiographs(intensity="equalise"))
    assert 0 <= radiograph.min() < 0.05 < 0.95 < radiograph.max() <= 1
    counts, _ = np.histogram(radiograph, 8, (0, 1))
    np.testing.assert_allclose(counts / radiograph.size, 1 / 8, atol=0.02)
    bent = prepare(values**1.5, radiographs(intensity="equalise"))
    plain = prepare(values, radiographs()), prepare(values**1.5, radiographs())
    assert np.abs(bent - radiograph).mean() < 0.3 * np.abs(plain[0] - plain[1]).mean()


@pytest.mark.parametrize(("intensity", "grey"), [*zip(INTENSITIES, (0, 0, 0.5), strict=True)])
def test_a_radiograph_of_one_grey_becomes_one_number(intensity, grey):
    for value in (0.0, 0.3, 1.0):
        values = np.full((70, 50), value, np.float32)
        radiograph = prepare(values, radiographs(intensity=intensity, lungs=True))
        np.testing.assert_allclose(radiograph, grey, atol=1e-3)


def test_stripes_finer_than_a_pixel_become_grey_and_no_pattern():
    values = np.zeros((256, 256), np.float32)
    values[:128, ::2] = 1  # one pixel wide, of which eight make one
    values[128:] = np.linspace(0, 1, 256, dtype=np.float32)
    radiograph = prepare(values, radiographs())
    assert radiograph[:14].std() < 0.05 * radiograph[18:].std()


def test_what_lies_on_the_border_is_not_seen():
    values = drawn().astype(np.float32) / 255
    marked = values.copy()
    marked[:8, 60:80], marked[20:60, -12:] = 3, -2
    for lungs in (False, True):
        data = radiographs(border=0.1, lungs=lungs)
        np.testing.assert_array_equal(prepare(marked, data), prepare(values, data))
    assert np.abs(prepare(marked, radiographs()) - prepare(values, radiographs())).max() > 1


def test_only_the_box_of_the_lungs_is_seen():
    values = drawn().astype(np.float32) / 255
    top, left, bottom, right = lung_box(values)
    boxed = prepare(values[top:bottom, left:right], radiographs())
    np.testing.assert_array_equal(prepare(values, radiographs(lungs=True)), boxed)


def test_a_bundle_that_needs_the_box_of_the_lungs_is_refused():
    with pytest.raises(UsageError, match=r"needs-consortium: .*use consortium predict"):
        preprocessing_config(radiographs(lungs=True))


def test_the_lungs_lie_in_their_box_whatever_the_scanner():
    side = 128
    # The furthest of both lungs, in shares of the side; the domes cut the lungs off below.
    lungs = (np.array([-0.67, -0.71, 0.50, 0.71]) + 1) / 2
    cut = []
    for scanner in OWN:
        for label in LABELS:
            for seed in range(6):
                radiograph = draw_radiograph(np.random.default_rng(seed), label, scanner, side)
                box = np.array(lung_box(radiograph.astype(np.float32))) / side
                cut.append(((box - lungs) * [1, 1, -1, -1]).max())
                assert box[2] - box[0] < 0.95
    assert max(cut) < 0.16
    assert np.mean(np.array(cut) < 0.08) > 0.85


@given(
    st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 300), st.sampled_from([0.0, 1e-3, 1])
)
def test_there_is_always_a_plausible_box(seed, rows, columns, contrast):
    values = 0.5 + contrast * np.random.default_rng(seed).random((rows, columns), np.float32)
    top, left, bottom, right = lung_box(values)
    assert 0 <= top <= 0.25 * rows
    assert 0.6 * rows <= bottom <= rows
    assert 0 <= left <= 0.25 * columns
    assert 0.75 * columns <= right <= columns


def batch(count: int = 6) -> torch.Tensor:
    prepared = [
        prepare(
            draw_radiograph(np.random.default_rng(n), "normal", OWN[0], 64).astype(np.float32), data
        )
        for n, data in zip(range(count), [radiographs(size=64)] * count, strict=True)
    ]
    return torch.from_numpy(np.stack(prepared))[:, None]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_random_changes_are_a_function_of_the_generator_alone():
    given_radiographs = batch()
    kept = given_radiographs.clone()
    first = augment(given_radiographs, seeded())
    torch.manual_seed(99)
    assert torch.equal(augment(given_radiographs, seeded()), first)
    assert torch.equal(given_radiographs, kept)
    assert first.shape == kept.shape
    assert first.isfinite().all()
    assert not torch.allclose(augment(given_radiographs, seeded(4)), first, atol=0.1)
    same = augment(kept[:1].expand(2, -1, -1, -1).contiguous(), seeded())
    assert not torch.allclose(same[0], same[1], atol=0.1)


def test_no_radiograph_is_mirrored_and_each_stays_itself():
    given_radiographs = batch()
    for seed in range(5):
        changed = augment(given_radiographs, seeded(seed))
        for radiograph, other in zip(given_radiographs, changed, strict=True):
            alike, mirrored = (
                torch.corrcoef(torch.stack([radiograph.flatten(), way.flatten()]))[0, 1]
                for way in (other, other.flip(-1))
            )
            assert alike > 0.6
            assert alike > mirrored


def test_radiographs_move_and_grow_within_their_limits():
    size, radius = 64, 8
    line = torch.arange(size) + 0.5 - size / 2
    disc = ((line[None] ** 2 + line[:, None] ** 2) < radius**2).float()
    changed = augment(disc.expand(300, 1, size, size).contiguous(), seeded())[:, 0]
    weight = (changed - changed[:, :1, :1]).flatten(1)
    weight = weight / weight.sum(1, keepdim=True)
    for axis in (line[None].expand(size, size), line[:, None].expand(size, size)):
        moved = (weight * axis.flatten()).sum(1) / size
        assert SHIFT * 0.85 < moved.abs().max() < SHIFT * 1.2  # by the zoom too
        assert abs(moved.mean()) < 0.2 * SHIFT
    spread = (changed > (changed.amax((1, 2)) / 2).view(-1, 1, 1)).float().sum((1, 2))
    grown = (spread / disc.sum()).sqrt()
    assert 0.85 < grown.min() < 0.95
    assert 1.05 < grown.max() < 1.15


def test_contrast_and_brightness_change_within_their_limits():
    flat = torch.zeros(300, 1, 64, 64)
    flat[:, :, :, 32:] = 1
    changed = augment(flat, seeded())
    # Away from the edge, which moves.
    dark, bright = changed[:, 0, 24:40, :24].mean((1, 2)), changed[:, 0, 24:40, 40:].mean((1, 2))
    assert 0.79 < (bright - dark).min() < 0.83
    assert 1.2 < (bright - dark).max() < 1.26
    assert 0.05 < ((bright + dark) / 2 - 0.5).abs().max() < 0.15
