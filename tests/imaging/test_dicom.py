"""DICOM series: the volume of a valid series, and the findings of an invalid one."""

import gzip
import io
import warnings
import zlib

import gdcm
import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import HTJ2KLossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless, generate_uid
from tests.memory import memory_limited_to

from consortium.imaging.dicom import UnusableSeries, open_series
from consortium.imaging.dicom_seg import Algorithm, read_segmentation, write_segmentation
from consortium.imaging.grids import align_to_grid, find_placement
from consortium.imaging.radiographs import UnusableRadiograph, read_pixels, read_view
from consortium.imaging.volumes import read_image, read_mask
from consortium.tasks.registry import parse_settings
from consortium.tasks.segmentation.checks import check_folder
from consortium.tasks.segmentation.inference import load_case

SHAPE = (7, 6, 5)


def scan(number=0, shape=SHAPE):
    return np.random.default_rng(number).integers(-900, 900, shape).astype(np.int16)


def open_(folder):
    return open_series(folder, folder.name)


@pytest.fixture
def dicom(hospital, write_series, oblique):
    """Seven patients (too few for outliers), P3's two channels as DICOM; gives their folders."""

    def make(change=lambda dataset, number: None, **values):
        folders = []
        for channel, name in enumerate(("t1", "flair")):
            folder = hospital.folder / "imagesTr/P3" / name
            voxels = scan(channel)
            if channel:
                write_series(folder, voxels, oblique)
            else:
                write_series(folder, voxels, oblique, change=change, **values)
            folders.append(folder)
        mask = np.zeros(SHAPE, np.uint8)
        mask[2:4, 2:4, 1] = 1
        hospital.put("labelsTr/P3.nii.gz", mask, oblique)
        del hospital.content["training"][7:]
        hospital.content["training"][3] = {
            "patient": "P3",
            "image": ["./imagesTr/P3/t1", "./imagesTr/P3/flair"],
            "label": "./labelsTr/P3.nii.gz",
        }
        hospital.save()
        return folders

    return make


def only(hospital):
    findings = check_folder(hospital.folder)
    assert len(findings) == 1, findings
    return findings[0]


def test_a_series_is_the_volume_that_was_scanned(tmp_path, write_series, oblique):
    series = open_(write_series(tmp_path / "s", scan(), oblique))
    assert series.shape == SHAPE
    assert np.allclose(series.affine, oblique, atol=1e-6)
    voxels = series.voxels()
    assert voxels.dtype == np.int16
    assert np.array_equal(voxels, scan())
    assert np.array_equal(series.voxels(), voxels)


def test_slices_that_run_downwards_are_stacked_upwards(tmp_path, write_series, oblique):
    downwards = oblique @ np.diag([1, 1, -1, 1])
    series = open_(write_series(tmp_path / "s", scan(), downwards))
    assert np.array_equal(series.voxels(), scan()[:, :, ::-1])
    end = downwards @ [0, 0, SHAPE[2] - 1, 1]
    assert np.allclose(series.affine[:, 3], end, atol=1e-6)


def test_the_geometry_is_highdicoms(tmp_path, write_series, oblique):
    folder = write_series(tmp_path / "s", scan(), oblique)
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(f) for f in folder.iterdir()])
    ours = open_(folder)
    for column, row, plane in ((0, 0, 0), (6, 2, 4), (1, 5, 3)):
        where = np.diag([-1, -1, 1, 1]) @ ours.affine @ [column, row, plane, 1]
        index = np.rint(np.linalg.solve(theirs.affine, where))[:3].astype(int)
        assert np.allclose(theirs.affine @ [*index, 1], where, atol=1e-6)
        assert theirs.array[tuple(index)] == scan()[column, row, plane]


def test_the_modality_lut_is_applied_to_each_slice(tmp_path, write_series, oblique):
    def rescale(dataset, number):
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + number, -1024

    folder = write_series(tmp_path / "s", scan(), oblique, change=rescale, Modality="PT")
    voxels = open_(folder).voxels()
    assert voxels.dtype == np.float32
    assert np.array_equal(voxels, scan() * np.arange(1, 6, dtype=np.float32) - 1024)


def test_jpeg_lossless_which_archives_write_changes_no_voxel(tmp_path, write_series, oblique):
    plain = write_series(tmp_path / "plain", scan(), oblique)
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in sorted(plain.iterdir()):
        reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        syntax = gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1)
        change.SetTransferSyntax(syntax)
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(packed / file.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    written = pydicom.dcmread(next(packed.iterdir()))
    assert written.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    series, same = open_series(plain, "s"), open_series(packed, "s")
    assert np.array_equal(series.voxels(), same.voxels())
    assert np.array_equal(series.affine, same.affine)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_lossless_compression_changes_no_voxel(tmp_path, write_series, oblique, syntax):
    def compress(dataset, number):
        dataset.compress(syntax, generate_instance_uid=False)

    folder = write_series(tmp_path / "s", scan(), oblique, change=compress)
    assert np.array_equal(open_(folder).voxels(), scan())


def enhanced(path, folder, change=lambda dataset: None):
    """The series of a folder as one multi-frame file, its frames out of order."""
    slices = sorted((pydicom.dcmread(f) for f in folder.iterdir()), key=lambda d: d.SOPInstanceUID)
    whole = pydicom.Dataset()
    whole.update(slices[0])
    whole.file_meta = slices[0].file_meta
    whole.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    frames = []
    for dataset in slices:
        frame, position = pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = dataset.ImagePositionPatient
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    shared = pydicom.Dataset()
    orientation, measures, values = (pydicom.Dataset() for _ in range(3))
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    values.RescaleSlope, values.RescaleIntercept = 2, 5
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [values]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(whole, keyword)
    whole.NumberOfFrames = len(frames)
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = frames
    whole.PixelData = b"".join(dataset.PixelData for dataset in slices)
    change(whole)
    whole.save_as(path, enforce_file_format=True)
    return path


def test_an_enhanced_multi_frame_file_is_the_same_volume(tmp_path, write_series, oblique):
    series = open_(enhanced(tmp_path / "e.dcm", write_series(tmp_path / "s", scan(), oblique)))
    assert np.allclose(series.affine, oblique, atol=1e-6)
    assert np.array_equal(series.voxels(), scan() * 2.0 + 5)


def test_an_enhanced_multi_frame_file_is_segmented_too(tmp_path, write_series, oblique):
    series = open_(enhanced(tmp_path / "e.dcm", write_series(tmp_path / "s", scan(), oblique)))
    mask = (scan() > 400).astype(np.uint8)
    write_segmentation(tmp_path / "m.dcm", {"a": mask}, series, Algorithm("a", "b", "c"))
    read = read_mask(tmp_path, tmp_path / "m.dcm", {"a": 1}, SHAPE, series.affine)
    assert np.array_equal(read.voxels, mask)


def test_two_patients_never_share_a_series(hospital, dicom):
    dicom()
    hospital.content["training"].append(
        {
            "patient": "P9",
            "image": ["./imagesTr/P3/flair", "./imagesTr/P3/t1"],
            "label": "./labelsTr/P9.nii.gz",
        }
    )
    hospital.save()
    findings = {(f.code, f.file, f.detail) for f in check_folder(hospital.folder)}
    shared = "patients P3 and P9 share this image"
    assert ("duplicate-patient", "imagesTr/P3/flair", shared) in findings


def test_several_frames_without_positions_are_no_volume(hospital, dicom, write_series, oblique):
    [folder, _] = dicom()

    def forget(dataset):
        del dataset.PerFrameFunctionalGroupsSequence

    enhanced(hospital.folder / "e.dcm", folder, forget)
    hospital.content["training"][3]["image"][0] = "./e.dcm"
    hospital.save()
    assert only(hospital).code == "missing-geometry"


def settings(channels, **data):
    return parse_settings(
        {
            "data": {"channels": channels, "labels": {"tumour": [1]}, "size": [16, 16], **data},
            "network": {"features": [4, 8]},
        }
    )


@pytest.mark.parametrize("data", [{}, {"spatial_dims": 3, "spacing": [1.0, 1.0, 2.0]}])
def test_the_network_sees_what_it_sees_of_the_same_scan_as_nifti(
    tmp_path, write_series, oblique, data
):
    if data:
        data = data | {"size": [16, 16, 8]}
    voxels = np.stack([scan(1, (20, 18, 9)), scan(2, (20, 18, 9))], axis=-1)
    # A converter may list the same voxels with the second axis the other way round.
    turned = oblique @ np.array(
        [[1, 0, 0, 0], [0, -1, 0, 17], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64
    )
    for name, stored, affine in (
        ("same.nii.gz", voxels, oblique),
        ("turned.nii.gz", voxels[:, ::-1], turned),
    ):
        nib.Nifti1Image(stored, affine).to_filename(tmp_path / name)
    folders = tuple(
        write_series(tmp_path / name, voxels[..., i], oblique) for i, name in enumerate("ab")
    )
    job = settings(["a", "b"], **data)
    case = load_case(job, folders, None)
    assert np.allclose(case.affine_original, oblique, atol=1e-6)
    assert case.spacing_original == pytest.approx((0.8, 1.1, 2.5), abs=1e-6)
    for name in ("same.nii.gz", "turned.nii.gz"):
        other = load_case(job, tmp_path / name, None)
        assert other.image.shape == case.image.shape
        assert torch.allclose(other.image.as_tensor(), case.image.as_tensor(), atol=1e-4)


def test_a_sound_series_for_each_channel_has_no_findings(hospital, dicom):
    dicom()
    assert check_folder(hospital.folder) == []


def test_a_sound_series_as_the_only_channel_has_no_findings(hospital, write_series, oblique):
    hospital.content = {
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "tumour"},
        "training": [],
    }
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, 2:4, 1] = 1
    for number in range(5):
        write_series(hospital.folder / f"imagesTr/D{number}", scan(number), oblique)
        hospital.put(f"labelsTr/D{number}.nii.gz", mask, oblique)
        hospital.list(f"./imagesTr/D{number}", f"./labelsTr/D{number}.nii.gz")
    assert check_folder(hospital.folder) == []


def test_a_mask_with_the_axes_of_another_program_fits(hospital, dicom, oblique):
    dicom()
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, 2:4, 1] = 1
    turn = np.array([[0, 0, 1, 0], [0, -1, 0, SHAPE[1] - 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = mask[:, ::-1].transpose(2, 1, 0)
    hospital.put("labelsTr/P3.nii.gz", turned, oblique @ turn)
    assert check_folder(hospital.folder) == []
    hospital.put("labelsTr/P3.nii.gz", turned, oblique @ turn @ np.diag([1, 1, 1.1, 1]))
    assert only(hospital).code == "shape-mismatch"


def drop(keyword):
    def change(dataset, number):
        delattr(dataset, keyword)

    return change


def only_at(slice_number, **values):
    def change(dataset, number):
        if number == slice_number:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return change


def shift(mm):
    def change(dataset, number):
        dataset.ImagePositionPatient = [
            v + d for v, d in zip(dataset.ImagePositionPatient, mm(number), strict=True)
        ]

    return change


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        (drop("ImagePositionPatient"), "missing-geometry", "no usable ImagePositionPatient"),
        (drop("ImageOrientationPatient"), "missing-geometry", "no usable ImageOrientationPatient"),
        (drop("PixelSpacing"), "missing-geometry", "no usable PixelSpacing"),
        (only_at(2, PixelSpacing=[0, 1]), "bad-affine", "PixelSpacing is not above 0"),
        (
            only_at(2, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
            "bad-affine",
            "directions of rows and columns are not at a right angle",
        ),
        (
            only_at(2, SeriesInstanceUID=generate_uid(entropy_srcs=["x"])),
            "several-series",
            "2 series in one folder",
        ),
        (
            only_at(2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
            "mixed-orientation",
            "of 5 slices have another orientation than the first",
        ),
        (only_at(2, PixelSpacing=[1, 1]), "mixed-slices", "slices differ in PixelSpacing"),
        (
            only_at(2, FrameOfReferenceUID=generate_uid(entropy_srcs=["x"])),
            "mixed-slices",
            "slices differ in FrameOfReferenceUID",
        ),
        (shift(lambda n: (3.0 * n, 0, 0)), "tilted-series", "slices are shifted"),
        (shift(lambda n: (0, 0, 0.6 * (n == 2))), "uneven-slices", "slices lie 1.9"),
        (only_at(2, SamplesPerPixel=3), "unreadable-file", "a colour image"),
        (only_at(2, RescaleSlope=1, RescaleIntercept=0), "missing-rescale", "4 of 5 MR slices"),
    ],
)
def test_an_invalid_series_is_a_finding(hospital, dicom, change, code, detail):
    dicom(change)
    finding = only(hospital)
    assert (finding.code, finding.severity) == (code, "error")
    assert detail in finding.detail
    assert finding.file.startswith("imagesTr/P3/t1")


def test_computed_tomography_without_its_rescaling_is_an_error(hospital, dicom):
    dicom(Modality="CT")
    assert only(hospital).detail == "5 of 5 CT slices without slope and intercept"


def test_missing_slices_are_counted_and_located(hospital, dicom, tmp_path):
    [folder, _] = dicom()
    files = {pydicom.dcmread(f).ImagePositionPatient[2]: f for f in folder.iterdir()}
    first, second, third, *_ = (files[z] for z in sorted(files))
    for path in (second, third):
        path.unlink()
    finding = only(hospital)
    assert finding.code == "missing-slices"
    assert (
        finding.detail
        == f"about 2 of 5 slices are missing; the first gap is after imagesTr/P3/t1/{first.name}"
    )


def test_two_files_of_one_slice_are_an_error(hospital, dicom):
    [folder, _] = dicom()
    path = next(folder.iterdir())
    (folder / "copy.dcm").write_bytes(path.read_bytes())
    finding = only(hospital)
    assert finding.code == "duplicate-slice"
    assert finding.detail == "1 of 6 slices have the position of another slice"


def test_a_missing_and_an_empty_folder(hospital, dicom):
    [folder, _] = dicom()
    for file in folder.iterdir():
        file.unlink()
    finding = only(hospital)
    assert (finding.code, finding.detail) == ("empty-series", "the folder is empty")
    (folder / "inner").mkdir()
    assert only(hospital).detail == "no file in the folder, but 1 folder"
    (folder / "inner").rmdir()
    folder.rmdir()
    assert only(hospital).code == "missing-file"


def test_files_that_are_no_images(hospital, dicom):
    [folder, _] = dicom()
    path = sorted(folder.iterdir())[0]
    whole = path.read_bytes()
    for content, detail in (
        (b"a text", "not a DICOM file"),
        (b"", "not a DICOM file"),
        (whole[:-20], "its pixels cannot be read"),
        (whole[:400], "damaged"),
    ):
        path.write_bytes(content)
        finding = only(hospital)
        assert finding.code in ("unreadable-file", "missing-geometry")
        assert finding.file == f"imagesTr/P3/t1/{path.name}"
        assert detail in finding.detail or len(content) == 400
    path.write_bytes(whole)
    (folder / "DICOMDIR").write_bytes(b"an index")
    (folder / ".hidden").write_bytes(b"")
    assert check_folder(hospital.folder) == []


def test_a_compression_that_nothing_decodes(hospital, dicom):
    def claim(dataset, number):
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 16])
        dataset["PixelData"].is_undefined_length = True

    dicom(claim)
    finding = only(hospital)
    assert finding.code == "no-decoder"
    assert "High-Throughput JPEG 2000" in finding.detail


def test_a_patients_name_is_warned_of_and_never_reported(hospital, dicom):
    dicom(PatientName="Quux^Ada", PatientBirthDate="19151210")
    finding = only(hospital)
    assert (finding.code, finding.severity) == ("identifying-header", "warning")
    assert finding.detail == "the headers hold PatientName, PatientBirthDate"
    assert "Quux" not in repr(finding)


def test_a_header_that_cannot_be_understood_is_not_quoted(hospital, dicom):
    def break_it(dataset, number):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            element = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(0x0020, 0x0032), "DS", 12, b"Quux\\Ada\\0 ", 0, False, True
            )
            dataset._dict[element.tag] = element

    dicom(break_it)
    finding = only(hospital)
    assert finding.severity == "error"
    assert "Quux" not in repr(finding)


@pytest.mark.parametrize("change", ["shape", "place", "frame", "axes"])
def test_channels_of_different_grids_are_never_stacked(hospital, dicom, write_series, change):
    dicom()
    folder = hospital.folder / "imagesTr/P3/other"
    affine = open_(hospital.folder / "imagesTr/P3/t1").affine
    values = {}
    voxels = scan(4)
    if change == "shape":
        voxels = voxels[:, :, :4]
    elif change == "place":
        affine = affine + np.array([[0, 0, 0, 0.2], [0] * 4, [0] * 4, [0] * 4])
    elif change == "frame":
        values = {"FrameOfReferenceUID": generate_uid(entropy_srcs=["another"])}
    else:
        voxels = np.stack([voxels, voxels], axis=-1)
    if change == "axes":
        nib.Nifti1Image(voxels, affine).to_filename(folder.with_suffix(".nii.gz"))
    else:
        write_series(folder, voxels, affine, **values)
    name = "other.nii.gz" if change == "axes" else "other"
    hospital.content["training"][3]["image"] = ["./imagesTr/P3/t1", f"./imagesTr/P3/{name}"]
    hospital.save()
    finding = only(hospital)
    assert (finding.code, finding.file) == ("channel-mismatch", f"imagesTr/P3/{name}")


def test_channels_may_be_nifti_files_of_their_own(hospital, oblique):
    for number, name in enumerate(("a", "b")):
        hospital.put(f"imagesTr/P3-{name}.nii.gz", scan(number), oblique)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 1, 1] = 1
    hospital.put("labelsTr/P3.nii.gz", mask, oblique)
    del hospital.content["training"][7:]
    hospital.content["training"][3] = {
        "patient": "P3",
        "image": ["imagesTr/P3-a.nii.gz", "imagesTr/P3-b.nii.gz"],
        "label": "labelsTr/P3.nii.gz",
    }
    hospital.save()
    assert check_folder(hospital.folder) == []
    image = read_image(
        hospital.folder, tuple(hospital.folder / f"imagesTr/P3-{n}.nii.gz" for n in "ab")
    )
    assert np.array_equal(image.voxels, np.stack([scan(0), scan(1)], axis=-1))


def test_a_part_of_a_grid_is_placed_on_it_in_any_order_of_axes(oblique):
    whole = scan()
    part = whole[2:5, 1:6, 3:5]
    move = np.eye(4)
    move[:3, 3] = [2, 1, 3]
    placement = find_placement(part.shape, oblique @ move, SHAPE, oblique)
    assert np.array_equal(whole[placement.region], part)
    turn = np.array([[0, 1.0, 0, 0], [-1, 0, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned = np.flip(part, 1).transpose(1, 0, 2)
    placement = find_placement(turned.shape, oblique @ move @ turn, SHAPE, oblique)
    assert np.array_equal(placement(turned), part)
    assert placement.region == (slice(2, 5), slice(1, 6), slice(3, 5))
    assert align_to_grid(turned, oblique @ move @ turn, SHAPE, oblique) is None
    move[0, 3] = 2.3
    assert find_placement(part.shape, oblique @ move, SHAPE, oblique) is None
    move[0, 3] = 5
    assert find_placement(part.shape, oblique @ move, SHAPE, oblique) is None


def deflated(path, size, **values):
    """A file of one slice whose data set inflates to `size` bytes more than its header."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = pydicom.uid.MRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows = dataset.Columns = 64
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelRepresentation, dataset.HighBit = 0, 15
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    plain = io.BytesIO()
    dataset.save_as(plain, enforce_file_format=True)
    whole = plain.getvalue()
    content = whole[144 + int.from_bytes(whole[140:144], "little") :]
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    head = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(head, dataset.file_meta, enforce_standard=False)
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM" + head.getvalue() + stream.compress(content))
        # Pixels, (7FE0,0010) OW with its length.
        file.write(stream.compress(b"\xe0\x7f\x10\0OW\0\0" + size.to_bytes(4, "little")))
        for _ in range(size >> 20):
            file.write(stream.compress(bytes(1 << 20)))
        file.write(stream.compress(bytes(size % (1 << 20))) + stream.flush())
    return path


READERS = {
    "series": lambda path: open_series(path, "a.dcm"),
    "mask": lambda path: read_segmentation(path, "a.dcm", {}, SHAPE, np.eye(4)),
    "radiograph": lambda path: read_pixels(path, "a.dcm"),
}
UNUSABLE = (UnusableSeries, UnusableRadiograph)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """A file of 600 kB; what inflates it at once takes 600 MB twice."""
    path = deflated(tmp_path_factory.mktemp("bomb") / "a.dcm", 600 << 20, ViewPosition="PA")
    assert path.stat().st_size < 1 << 20
    return path


@pytest.mark.parametrize("reader", ["series", "mask", "radiograph"])
def test_a_small_file_that_inflates_to_gigabytes_is_refused_before_it_does(bomb, reader):
    with memory_limited_to(512 << 20), pytest.raises(UNUSABLE) as refusal:
        READERS[reader](bomb)
    assert refusal.value.finding.code == "unreadable-file"
    assert "inflates to more than 256 MiB" in refusal.value.finding.detail


def test_the_view_of_a_file_that_inflates_to_gigabytes_is_not_read(bomb, tmp_path):
    with memory_limited_to(512 << 20):
        assert read_view(bomb) == ""
    assert read_view(deflated(tmp_path / "b.dcm", 64 * 64 * 2, ViewPosition="PA")) == "PA"


def test_a_deflated_file_of_usual_size_is_read(tmp_path):
    assert read_pixels(deflated(tmp_path / "a.dcm", 64 * 64 * 2), "a").values.shape == (64, 64)


@pytest.mark.parametrize("reader", ["series", "mask"])
def test_a_file_that_declares_more_pixels_than_a_machine_holds_is_refused(tmp_path, reader):
    path = deflated(tmp_path / "a.dcm", 8, Rows=60_000, Columns=60_000)
    with memory_limited_to(768 << 20), pytest.raises(UnusableSeries) as refusal:
        READERS[reader](path)
    assert "declares more than 2048 MiB of pixels" in refusal.value.finding.detail


def test_a_small_nifti_file_that_inflates_to_gigabytes_is_refused(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.uint8)
    with gzip.open(tmp_path / "a.nii.gz", "wb", 9) as file:
        file.write(header.binaryblock + bytes(4))
    with memory_limited_to(768 << 20):
        finding = read_image(tmp_path, tmp_path / "a.nii.gz")
    assert (finding.code, finding.detail) == ("unreadable-file", "more than 4096 MiB of voxels")
