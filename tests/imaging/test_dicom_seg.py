"""DICOM segmentations: written and read back."""

import highdicom
import numpy as np
import pydicom
import pytest

from consortium.core.errors import Refused
from consortium.imaging.dicom import open_series
from consortium.imaging.dicom_seg import Algorithm, write_segmentation
from consortium.imaging.volumes import read_mask
from consortium.tasks.segmentation.checks import check_folder

SHAPE = (9, 7, 6)
ALGORITHM = Algorithm("Consortium tumours", "0123456789abcdef", "consortium 0.1.0")


def structures():
    """Two that overlap, and none."""
    whole, core = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    whole[1:6, 2:6, 1:4], core[4:8, 3:5, 2:5] = 1, 1
    return {"whole": whole, "core": core, "nothing": np.zeros(SHAPE, np.uint8)}


@pytest.fixture
def series(tmp_path, write_series, oblique):
    voxels = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    folder = write_series(
        tmp_path / "series", voxels, oblique, PatientName="Quux^Ada", PatientSex="F", StudyID="S1"
    )
    return open_series(folder, "series")


def write(path, series, masks=None, algorithm=ALGORITHM):
    write_segmentation(path, structures() if masks is None else masks, series, algorithm)
    return path


def positions(voxels, affine):
    """Where the voxels are, mm LPS, sorted."""
    points = np.argwhere(voxels) @ affine[:3, :3].T + affine[:3, 3]
    return np.array(sorted(map(tuple, np.round(points, 4))))


def test_highdicom_reads_every_structure_at_its_position(tmp_path, series):
    read = highdicom.seg.segread(write(tmp_path / "m.dcm", series))
    volume = read.get_volume(combine_segments=False)
    to_lps = np.diag([-1, -1, 1, 1]) @ series.affine
    for number, voxels in enumerate(structures().values()):
        theirs = positions(volume.array[..., number], volume.affine)
        ours = positions(voxels, to_lps)
        assert len(ours) == len(theirs)
        assert np.allclose(ours, theirs, atol=1e-3)


def test_each_frame_refers_to_the_slice_that_it_lies_on(tmp_path, series):
    dataset = pydicom.dcmread(write(tmp_path / "m.dcm", series))
    slices = {str(frame.dataset.SOPInstanceUID): i for i, frame in enumerate(series.frames)}
    planes = dataset.pixel_array
    seen = 0
    for plane, frame in zip(planes, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        z = slices[source.ReferencedSOPInstanceUID]
        assert np.array_equal(plane.T, list(structures().values())[number - 1][:, :, z])
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == pytest.approx(
            list(series.frames[z].position), abs=1e-6
        )
        seen += int(plane.sum())
    assert seen == sum(int(voxels.sum()) for voxels in structures().values())
    [referenced] = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series.datasets[0].SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence} == set(
        slices
    )


def test_the_attributes_that_an_archive_needs_are_present(tmp_path, series):
    dataset = pydicom.dcmread(write(tmp_path / "m.dcm", series))
    source = series.datasets[0]
    assert dataset.SOPClassUID == dataset.file_meta.MediaStorageSOPClassUID
    assert dataset.SOPClassUID == pydicom.uid.SegmentationStorage
    assert (dataset.Modality, dataset.SegmentationType) == ("SEG", "BINARY")
    assert (dataset.BitsAllocated, dataset.SamplesPerPixel) == (1, 1)
    assert dataset.SegmentsOverlap == "YES"
    for keyword in (
        "PatientID",
        "PatientName",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
        "StudyDate",
        "FrameOfReferenceUID",
    ):
        assert getattr(dataset, keyword) == getattr(source, keyword)
    for keyword in ("PatientBirthDate", "AccessionNumber", "ReferringPhysicianName", "StudyTime"):
        assert keyword in dataset
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert (dataset.Rows, dataset.Columns) == (source.Rows, source.Columns)
    assert (dataset.ContentDate, dataset.ContentTime) == ("20240229", "101112")
    assert "InstanceCreationDate" not in dataset
    for number, (name, segment) in enumerate(
        zip(structures(), dataset.SegmentSequence, strict=True), start=1
    ):
        assert (segment.SegmentNumber, segment.SegmentLabel) == (number, name)
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        [category] = segment.SegmentedPropertyCategoryCodeSequence
        [kind] = segment.SegmentedPropertyTypeCodeSequence
        assert (category.CodeValue, category.CodingSchemeDesignator) == ("49755003", "SCT")
        assert (kind.CodeValue, kind.CodeMeaning) == ("108369006", "Neoplasm")
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == "Consortium tumours"
        assert algorithm.AlgorithmVersion == "0123456789abcdef"
    assert dataset.SoftwareVersions == "consortium 0.1.0"


def test_the_same_mask_of_the_same_series_is_the_same_bytes(tmp_path, series):
    first = write(tmp_path / "one.dcm", series).read_bytes()
    again = open_series(series.frames[0].path.parent, "elsewhere")
    assert write(tmp_path / "two.dcm", again).read_bytes() == first
    other = structures()
    other["core"][0, 0, 0] = 1
    uids = {
        pydicom.dcmread(path).SOPInstanceUID
        for path in (
            tmp_path / "one.dcm",
            write(tmp_path / "three.dcm", series, other),
            write(tmp_path / "four.dcm", series, algorithm=Algorithm("a", "b", "c")),
        )
    }
    assert len(uids) == 3


def test_an_empty_segmentation_is_valid(tmp_path, series):
    nothing = {"whole": np.zeros(SHAPE, np.uint8)}
    path = write(tmp_path / "m.dcm", series, nothing)
    assert not highdicom.seg.segread(path).get_volume().array.any()
    mask = read_mask(tmp_path, path, {"whole": 1}, SHAPE, series.affine)
    assert mask.voxels.shape == SHAPE
    assert not mask.voxels.any()


def test_headers_that_say_little_or_nonsense_are_enough(tmp_path, write_series, oblique):
    def strip(dataset, number):
        del dataset.PatientID, dataset.PatientName, dataset.StudyDate, dataset.StudyTime
        del dataset.SeriesNumber, dataset.SliceThickness

    folder = write_series(
        tmp_path / "s", np.ones(SHAPE, np.int16), oblique, change=strip, PatientSex="X"
    )
    dataset = pydicom.dcmread(write(tmp_path / "m.dcm", open_series(folder, "s")))
    assert (dataset.PatientID, dataset.PatientSex) == ("", "")
    assert dataset.ContentDate == "19000101"


def test_a_series_without_a_frame_of_reference_has_no_segmentation(tmp_path, write_series, oblique):
    def strip(dataset, number):
        del dataset.FrameOfReferenceUID

    folder = write_series(tmp_path / "s", np.ones(SHAPE, np.int16), oblique, change=strip)
    with pytest.raises(Refused) as refusal:
        write(tmp_path / "m.dcm", open_series(folder, "s"))
    assert str(refusal.value) == (
        "error no-segmentation: the series lacks FrameOfReferenceUID, s, write the mask as .nii.gz"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_a_segmentation_is_read_back_as_the_mask_it_was(tmp_path, series):
    path = write(tmp_path / "m.dcm", series)
    values = {"whole": 1, "core": 3, "nothing": 7}
    mask = read_mask(tmp_path, path, values, SHAPE, series.affine, series.reference)
    expected = np.zeros(SHAPE, np.uint8)
    expected[structures()["whole"] > 0] = 1
    expected[structures()["core"] > 0] = 3
    assert np.array_equal(mask.voxels, expected)
    assert np.array_equal(mask.affine, series.affine)
    both = int((structures()["whole"] & structures()["core"]).sum())
    assert [(note.code, note.detail) for note in mask.notes] == [
        ("overlapping-segments", f"{both} voxels are in several segments")
    ]
    # On an image that lists the same voxels otherwise, as a converter writes it.
    turn = np.array([[1, 0, 0, 0], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    turned = read_mask(tmp_path, path, values, SHAPE, series.affine @ turn)
    assert np.array_equal(turned.voxels, expected[:, ::-1])


def test_a_segmentation_of_something_else_is_refused(tmp_path, series):
    path = write(tmp_path / "m.dcm", series)
    names = {"whole": 1, "core": 2, "nothing": 3}

    def code(path=path, values=names, shape=SHAPE, affine=series.affine, reference=""):
        return read_mask(tmp_path, path, values, shape, affine, reference).code

    assert code(values={"whole": 1}) == "unknown-segment"
    assert code(affine=series.affine @ np.diag([1, 1, 1.3, 1])) == "affine-mismatch"
    assert code(shape=(*SHAPE[:2], 3)) == "affine-mismatch"
    assert code(reference="1.2.3") == "affine-mismatch"
    assert code(path=tmp_path / "absent.dcm") == "missing-file"
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-30])
    assert code(path=tmp_path / "cut.dcm") == "unreadable-file"
    (tmp_path / "scan.dcm").write_bytes(series.frames[0].path.read_bytes())
    assert code(path=tmp_path / "scan.dcm") == "unreadable-file"


def test_a_hospital_may_list_segmentations_as_its_masks(hospital, write_series, oblique):
    hospital.content |= {"modality": {"0": "T1"}, "training": []}
    for number in range(5):
        voxels = np.random.default_rng(number).integers(0, 900, SHAPE).astype(np.int16)
        folder = write_series(hospital.folder / f"imagesTr/D{number}", voxels, oblique)
        masks = {"Tumour": structures()["whole"]}
        (hospital.folder / "labelsTr").mkdir(exist_ok=True)
        path = hospital.folder / f"labelsTr/D{number}.dcm"
        write(path, open_series(folder, "s"), masks)
        hospital.list(f"./imagesTr/D{number}", f"./labelsTr/D{number}.dcm")
    assert check_folder(hospital.folder) == []
    hospital.content["labels"] = {"0": "background", "1": "oedema"}
    hospital.save()
    codes = {finding.code for finding in check_folder(hospital.folder)}
    assert codes == {"unknown-segment", "absent-label"}
    for file in (hospital.folder / "imagesTr/D0").iterdir():
        file.unlink()
    assert "empty-series" in {finding.code for finding in check_folder(hospital.folder)}
