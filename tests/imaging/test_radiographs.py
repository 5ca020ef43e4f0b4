"""X-rays in their formats: the greys of a valid file, and the findings of an invalid one."""

import os

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)
from tests.xrays import radiograph, write_dicom

from consortium.imaging.radiographs import UnusableRadiograph, read_pixels, read_view

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def read(path):
    return read_pixels(path, f"images/{path.name}")


def refused(path):
    with pytest.raises(UnusableRadiograph) as refusal:
        read(path)
    assert refusal.value.finding.file == f"images/{path.name}"
    assert "\n" not in refusal.value.finding.detail
    return refusal.value.finding


def saved(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


def test_eight_bits_of_grey_are_taken_as_they_are(tmp_path):
    pixels = read(saved(tmp_path / "a.png", radiograph(1)))
    assert pixels.values.dtype == np.float32
    assert np.array_equal(pixels.values, radiograph(1) / np.float32(255))
    assert (pixels.view, pixels.notes) == ("", ())


def test_a_jpeg_is_what_it_shows(tmp_path):
    values = read(saved(tmp_path / "a.jpg", radiograph(1), quality=95)).values
    assert np.abs(values - radiograph(1) / 255).mean() < 0.02


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "CMYK"])
def test_grey_in_another_disguise_is_grey(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    options = {"quality": 100, "subsampling": 0} if mode == "CMYK" else {}
    Image.fromarray(radiograph(1)).convert(mode).save(path, **options)
    assert np.abs(read(path).values * 255 - radiograph(1)).max() <= (
        0 if path.suffix == ".png" else 12
    )


def test_black_and_white_is_grey(tmp_path):
    Image.fromarray(radiograph(1)).convert("1").save(tmp_path / "a.png")
    assert set(np.unique(read(tmp_path / "a.png").values)) == {0.0, 1.0}


@pytest.mark.parametrize(("bits", "largest"), [(8, 200), (10, 1000), (12, 4000), (16, 65535)])
def test_sixteen_bits_are_divided_by_what_the_used_bits_can_hold(tmp_path, bits, largest):
    stored = np.linspace(0, largest, 64, dtype=np.uint16).reshape(8, 8)
    pixels = read(saved(tmp_path / "a.png", stored))
    assert np.allclose(pixels.values, stored / (2**bits - 1), atol=1e-6)
    [note] = pixels.notes
    assert (note.code, note.severity) == ("sixteen-bit", "warning")
    assert note.detail == f"16 bits a pixel, of which {bits} are used; {2**bits - 1} is white"


def test_colour_is_refused(tmp_path):
    colours = np.stack([radiograph(1)] * 3, -1)
    colours[:10, :10, 0] = 255
    colours[:10, :10, 2] = 0
    finding = refused(saved(tmp_path / "a.png", colours))
    assert finding.code == "colour-image"
    assert finding.detail == f"{100 / 96**2:.2%} of its pixels are coloured"
    colours = np.stack([radiograph(1).clip(0, 253)] * 3, -1)
    colours[..., 0] += 2
    assert read(saved(tmp_path / "a.png", colours)).values.shape == (96, 96)


def test_transparent_pixels_are_refused(tmp_path):
    picture = Image.fromarray(radiograph(1)).convert("LA")
    picture.putpixel((3, 3), (200, 0))
    picture.save(tmp_path / "a.png")
    assert refused(tmp_path / "a.png").detail == "part of it is transparent"


def test_the_orientation_that_a_camera_notes_is_honoured(tmp_path):
    picture = Image.fromarray(radiograph(1)[:50])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    turned = np.rot90(radiograph(1)[:50], -1) / np.float32(255)
    assert np.array_equal(read(tmp_path / "a.png").values, turned)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_a_file_that_is_cut_off_is_unreadable(tmp_path, name, share):
    path = tmp_path / name
    if name == "a.dcm":
        write_dicom(path, RAMP)
    else:
        saved(path, radiograph(1))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert refused(path).code == "unreadable-file"


def test_a_file_that_is_no_radiograph_is_unreadable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x00" * 500)
    assert refused(tmp_path / "a.png").detail == "neither PNG, JPEG nor DICOM"
    Image.fromarray(radiograph(1)).save(tmp_path / "a.bmp")
    assert refused(tmp_path / "a.bmp").detail == "neither PNG, JPEG nor DICOM"
    (tmp_path / "b.png").mkdir()
    assert refused(tmp_path / "b.png").code == "unreadable-file"
    assert refused(tmp_path / "c.png").code == "missing-file"
    assert refused(tmp_path / "a.bmp" / "d.png").code == "missing-file"
    assert refused(tmp_path / "\0.png").code == "unreadable-file"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert refused(tmp_path / "a.png").detail == "not a plain file"
    assert read_view(tmp_path / "a.png") == ""


def test_a_picture_too_large_is_not_decoded(tmp_path):
    for side, name in ((9_500, "large.png"), (14_000, "huge.png")):
        Image.new("1", (side, side)).save(tmp_path / name)
        finding = refused(tmp_path / name)
        assert finding.code == "unreadable-file"
        assert "more than 89478485" in finding.detail


def test_a_png_of_several_pictures_is_refused(tmp_path):
    several = [Image.fromarray(radiograph(number)) for number in range(3)]
    several[0].save(tmp_path / "a.png", save_all=True, append_images=several[1:])
    finding = refused(tmp_path / "a.png")
    assert (finding.code, finding.detail) == ("wrong-dimensions", "3 pictures; an X-ray has one")


@pytest.mark.parametrize("name", ["a.dcm", "a", "a.png"])
def test_dicom_is_recognised_by_its_content(tmp_path, name):
    path = write_dicom(tmp_path / name, RAMP, ViewPosition=" PA ")
    assert np.allclose(read(path).values, RAMP / RAMP.max(), atol=1e-6)
    assert read(path).view == read_view(path) == "PA"


@pytest.mark.parametrize("limit", [{}, {"PixelPaddingRangeLimit": 4095}])
def test_padding_does_not_stretch_a_radiograph_without_a_window(tmp_path, limit):
    stored = RAMP // 2
    stored[0] = 4095 if not limit else 4000
    path = write_dicom(tmp_path / "a.dcm", stored, PixelPaddingValue=int(stored[0, 0]), **limit)
    values = read(path).values
    assert (values[0] == 1).all()
    radiograph = stored[1:].astype(float)
    assert np.allclose(values[1:], (radiograph - radiograph.min()) / np.ptp(radiograph), atol=1e-6)


def test_a_radiograph_of_padding_alone_is_blank(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.full_like(RAMP, 7), PixelPaddingValue=7)
    assert not read(path).values.any()


def test_the_window_is_applied(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=2048.5, WindowWidth=1001)
    expected = ((RAMP - 2048.0) / 1000 + 0.5).clip(0, 1)
    assert np.allclose(read(path).values, expected, atol=1e-5)


def test_half_a_window_is_none(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowWidth=1001)
    plain = read(write_dicom(tmp_path / "b.dcm", RAMP))
    assert np.array_equal(read(path).values, plain.values)
    assert plain.values.std() > 0.1


def test_the_function_of_the_window_is_followed(tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, WindowCenter=2048, WindowWidth=1000, VOILUTFunction="SIGMOID"
    )
    expected = 1 / (1 + np.exp(-4 * (RAMP - 2048.0) / 1000))
    assert np.allclose(read(path).values, expected, atol=1e-5)


def test_the_modality_lut_comes_before_the_window(tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        RescaleSlope=-1,
        RescaleIntercept=4095,
        WindowCenter=2048.5,
        WindowWidth=4096,
    )
    assert np.allclose(read(path).values, 1 - RAMP / 4095, atol=1e-3)


def test_a_look_up_table_is_applied(tmp_path):
    item = pydicom.Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.LUTData = (65535 * np.linspace(0, 1, 4096) ** 2).astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    path = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=[item])
    assert np.allclose(read(path).values, (RAMP / 4095) ** 2, atol=1e-4)


def test_inverted_greys_are_inverted_back(tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=2048.5,
        WindowWidth=1001,
    )
    expected = 1 - ((RAMP - 2048.0) / 1000 + 0.5).clip(0, 1)
    assert np.allclose(read(path).values, expected, atol=1e-5)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_lossless_compression_changes_nothing(tmp_path, syntax):
    def compress(dataset):
        dataset.compress(syntax, generate_instance_uid=False)

    plain = read(write_dicom(tmp_path / "a.dcm", RAMP))
    packed = read(write_dicom(tmp_path / "b.dcm", RAMP, change=compress))
    assert np.array_equal(plain.values, packed.values)


def claim(syntax):
    def change(dataset):
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 16])
        dataset["PixelData"].is_undefined_length = True

    return change


def test_a_vendors_own_transfer_syntax_is_one_that_nothing_decodes(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    own = b"1.2.840.113619.5.2".ljust(20, b"\0")
    path.write_bytes(path.read_bytes().replace(ExplicitVRLittleEndian.encode() + b"\0", own, 1))
    assert refused(path).code == "no-decoder"


def lose_everything(dataset):
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.clear()


@pytest.mark.parametrize("shape", [(2, 128), (128, 2), (1, 1)])
def test_fewer_than_three_pixels_a_side_are_no_radiograph(tmp_path, shape):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UnusableRadiograph, match="fewer than 3 a side"):
        read_pixels(tmp_path / "a.png", "a.png")


def colour(dataset):
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = 0


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        (claim(HTJ2KLossless), "no-decoder", "compressed as High-Throughput JPEG 2000"),
        (claim(JPEGExtended12Bit), "no-decoder", "12 bits a pixel, compressed as JPEG Extended"),
        (lose_everything, "unreadable-file", "holds no image (of no class)"),
        (colour, "colour-image", "in colour"),
        (
            lambda dataset: setattr(dataset, "PhotometricInterpretation", "PALETTE COLOR"),
            "colour-image",
            "in colour",
        ),
        (
            lambda dataset: setattr(dataset, "NumberOfFrames", 3),
            "wrong-dimensions",
            "3 frames; an X-ray has one",
        ),
        (lambda dataset: delattr(dataset, "PixelData"), "unreadable-file", "holds no pixels"),
        (lambda dataset: delattr(dataset, "Rows"), "unreadable-file", "holds no image"),
        (lambda dataset: setattr(dataset, "Rows", 60_000), "unreadable-file", "damaged"),
        (lambda dataset: setattr(dataset, "WindowWidth", 0), "unreadable-file", "damaged"),
    ],
)
def test_dicom_that_is_no_radiograph(tmp_path, change, code, detail):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=1, WindowWidth=2, change=change)
    finding = refused(path)
    assert finding.code == code
    assert detail in finding.detail


def test_a_patients_name_is_warned_of_and_never_reported(tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        PatientName="Quux^Ada",
        PatientBirthDate="19151210",
        BurnedInAnnotation="YES",
    )
    notes = read(path).notes
    assert [note.code for note in notes] == ["identifying-header", "burnt-in-text"]
    assert notes[0].detail == "the headers hold PatientName, PatientBirthDate"
    assert "Quux" not in repr(notes)
    assert read(write_dicom(tmp_path / "b.dcm", RAMP, BurnedInAnnotation="NO")).notes == ()


@pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM" + b"\xff" * 50])
def test_an_unreadable_file_has_no_view(tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    assert read_view(tmp_path / "a.dcm") == ""
    assert read_view(tmp_path / "missing.dcm") == ""
