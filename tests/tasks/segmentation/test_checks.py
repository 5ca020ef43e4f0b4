import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.conftest import LGG, needs_real_data

from consortium.core.errors import UsageError
from consortium.core.findings import Finding
from consortium.core.outliers import far_from_median
from consortium.settings.base import Settings
from consortium.tasks.registry import load_settings, parse_settings
from consortium.tasks.segmentation.checks import check_folder

CHECKOUT = Path(__file__).parents[3]
P3_IMAGE = "imagesTr/P3.nii.gz"
P3_MASK = "labelsTr/P3.nii.gz"


def job(channels=("T1", "FLAIR"), **labels) -> Settings:
    labels = labels or {"tumour": [1]}
    data = {"channels": list(channels), "labels": labels, "size": [32, 32]}
    return parse_settings({"data": data})


def only(hospital, settings=None) -> Finding:
    findings = check_folder(hospital.folder, settings)
    assert len(findings) == 1, findings
    return findings[0]


def test_a_sound_folder_has_no_findings(hospital):
    assert check_folder(hospital.folder) == []
    assert check_folder(hospital.folder, job()) == []


def test_a_relative_folder_is_checked_like_an_absolute_one(hospital, monkeypatch):
    monkeypatch.chdir(hospital.folder)
    (hospital.folder / P3_MASK).unlink()
    assert check_folder(Path()) == check_folder(hospital.folder) != []


def test_a_missing_image_is_named(hospital):
    (hospital.folder / P3_IMAGE).unlink()
    assert only(hospital) == Finding("missing-file", "error", P3_IMAGE, "no such file")


def test_a_missing_mask_is_named(hospital):
    (hospital.folder / P3_MASK).unlink()
    assert only(hospital) == Finding("missing-file", "error", P3_MASK, "no such file")


@pytest.mark.parametrize("left", [0.5, 0.99])
def test_a_file_cut_off_in_copying_is_unreadable(hospital, left):
    path = hospital.folder / P3_IMAGE
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    assert only(hospital) == Finding(
        "unreadable-file", "error", P3_IMAGE, "damaged: the compressed data are cut off or altered"
    )


def test_a_wrong_checksum_is_found_although_all_voxels_can_be_read(hospital):
    path = hospital.folder / P3_IMAGE
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    assert only(hospital).code == "unreadable-file"


def test_a_file_with_fewer_voxels_than_its_header_says_is_unreadable(hospital):
    path = hospital.folder / P3_IMAGE
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-10]))
    finding = only(hospital)
    assert finding.code == "unreadable-file"
    assert finding.detail == "damaged: fewer voxels than its header says"


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff not a scan", gzip.compress(b"not a scan", mtime=0)]
)
def test_a_file_of_another_kind_is_unreadable(hospital, content):
    (hospital.folder / P3_IMAGE).write_bytes(content)
    finding = only(hospital)
    assert (finding.code, finding.file) == ("unreadable-file", P3_IMAGE)


def test_a_folder_in_place_of_a_file_is_an_empty_series_or_no_mask(hospital):
    for file, code in ((P3_IMAGE, "empty-series"), (P3_MASK, "unreadable-file")):
        content = (hospital.folder / file).read_bytes()
        (hospital.folder / file).unlink()
        (hospital.folder / file).mkdir()
        assert only(hospital).code == code
        (hospital.folder / file).rmdir()
        (hospital.folder / file).write_bytes(content)


def test_a_header_that_asks_for_absurd_memory_is_a_finding(hospital):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((32767, 32767, 32767, 2))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (hospital.folder / P3_IMAGE).write_bytes(gzip.compress(header.binaryblock + bytes(100)))
    assert only(hospital).code == "unreadable-file"


def test_colour_images_are_unreadable(hospital):
    colour = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    hospital.put(P3_IMAGE, colour)
    assert only(hospital).code == "unreadable-file"


@pytest.mark.parametrize("entry", ["../secret.nii.gz", "imagesTr/../../secret.nii.gz", "{outside}"])
def test_a_file_outside_the_folder_is_never_opened(hospital, monkeypatch, entry):
    secret = hospital.put("../secret.nii.gz", hospital.image(3)).resolve()
    entry = entry.format(outside=secret)
    hospital.content["training"][3]["image"] = entry
    hospital.save()
    opened = []
    load = nib.load
    monkeypatch.setattr(nib, "load", lambda path, **k: opened.append(path) or load(path, **k))
    assert only(hospital) == Finding(
        "outside-folder", "error", "dataset.json", f"{entry} is not a path inside the folder"
    )
    assert all(Path(path).resolve() != secret for path in opened)


def test_a_link_that_the_hospital_made_is_followed(hospital):
    elsewhere = hospital.put("../archive/P3.nii.gz", hospital.image(3)).resolve()
    (hospital.folder / P3_IMAGE).unlink()
    (hospital.folder / P3_IMAGE).symlink_to(elsewhere)
    assert check_folder(hospital.folder) == []


@pytest.mark.parametrize("entry", ["imagesTr/\ud800.nii.gz", "imagesTr/\0.nii.gz", "x" * 5000])
def test_a_name_that_no_file_can_have_is_a_finding(hospital, entry):
    hospital.content["training"][3]["image"] = entry
    hospital.save()
    assert only(hospital).code in ("missing-file", "unreadable-file")


def test_image_and_mask_of_different_shape(hospital):
    hospital.put(P3_MASK, hospital.mask()[:, :, :3])
    assert only(hospital) == Finding(
        "shape-mismatch", "error", P3_MASK, "the mask is 6 x 5 x 3, its image 6 x 5 x 4"
    )


def test_image_and_mask_at_different_places(hospital):
    affine = np.eye(4)
    affine[2, 3] = 2.5
    hospital.put(P3_MASK, hospital.mask(), affine)
    assert only(hospital) == Finding(
        "affine-mismatch",
        "error",
        P3_MASK,
        "mask and image lie up to 2.5 mm apart (their affines differ)",
    )


def test_a_mask_that_is_flipped_against_its_image(hospital):
    hospital.put(P3_MASK, hospital.mask(), np.diag([-1.0, 1, 1, 1]))
    assert only(hospital).code == "affine-mismatch"


@pytest.mark.parametrize(("shift", "differs"), [(0.09, False), (0.11, True)])
def test_a_tenth_of_a_voxel_between_image_and_mask_is_rounding(hospital, shift, differs):
    affine = np.eye(4)
    affine[0, 3] = shift
    hospital.put(P3_MASK, hospital.mask(), affine)
    assert bool(check_folder(hospital.folder)) == differs


def test_an_affine_that_cannot_be_inverted(hospital):
    image = nib.Nifti1Image(hospital.image(3), np.eye(4))
    image.header["srow_x"] = 0
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    content = image.header.binaryblock + bytes(4) + image.get_fdata().astype("u1").tobytes("F")
    (hospital.folder / P3_IMAGE).write_bytes(gzip.compress(content))
    assert only(hospital).code == "bad-affine"


def test_another_number_of_channels_than_dataset_json_names(hospital):
    hospital.put(P3_IMAGE, hospital.image(3)[..., 0])
    assert only(hospital) == Finding(
        "wrong-channels", "error", P3_IMAGE, "it has 1 channel, dataset.json names 2"
    )


def test_channels_in_another_order_than_the_job_wants(hospital):
    assert only(hospital, job(channels=("FLAIR", "T1"))) == Finding(
        "wrong-channels",
        "error",
        "dataset.json",
        "the job needs FLAIR, T1; the data have T1, FLAIR",
    )


def test_a_mask_with_a_fourth_axis(hospital):
    hospital.put(P3_MASK, hospital.mask()[..., np.newaxis, np.newaxis].repeat(2, axis=3))
    finding = only(hospital)
    assert finding.code == "wrong-dimensions"
    assert finding.detail == "6 x 5 x 4 x 2 x 1 voxels; expected x, y, slice"


def test_an_image_of_one_slice(hospital):
    hospital.put(P3_IMAGE, hospital.image(3)[:, :, 0, 0])
    assert only(hospital).code == "wrong-dimensions"


def test_a_value_that_dataset_json_does_not_name(hospital):
    mask = hospital.mask()
    mask[0, 0, 0], mask[0, 0, 1:3] = 4, 7
    hospital.put(P3_MASK, mask)
    assert only(hospital) == Finding(
        "unknown-label",
        "error",
        P3_MASK,
        "value 4 (1 voxel), 7 (2 voxels); dataset.json knows 0, 1",
    )


def test_a_value_that_the_job_does_not_know(hospital):
    hospital.content["labels"]["2"] = "edema"
    hospital.save()
    mask = hospital.mask()
    mask[0, 0, 0] = 2
    hospital.put(P3_MASK, mask)
    assert check_folder(hospital.folder) == []
    assert only(hospital, job()) == Finding(
        "unknown-label", "error", P3_MASK, "value 2 (1 voxel); the job knows 0, 1"
    )


def test_an_image_given_as_mask_does_not_fill_the_screen(hospital):
    hospital.put(P3_MASK, np.arange(120, dtype=np.int16).reshape(6, 5, 4))
    finding = only(hospital)
    assert finding.code == "unknown-label"
    assert "and 113 more values" in finding.detail
    assert len(finding.detail) < 130


def test_a_resampled_mask_with_fractions(hospital):
    mask = hospital.mask().astype(np.float32)
    mask[0, 0, :3] = 0.5
    hospital.put(P3_MASK, mask)
    assert only(hospital) == Finding(
        "non-integer-label", "error", P3_MASK, "3 voxels of 120 are not whole numbers"
    )


def test_whole_numbers_in_a_floating_point_mask_are_fine(hospital):
    hospital.put(P3_MASK, hospital.mask().astype(np.float64))
    assert check_folder(hospital.folder, job()) == []


def test_labels_are_read_through_the_headers_scaling(hospital):
    image = nib.Nifti1Image(hospital.mask() * 10, np.eye(4))
    image.header.set_slope_inter(0.1, 0)
    image.header["vox_offset"] = 352
    content = image.header.binaryblock + bytes(4) + (hospital.mask() * 10).tobytes("F")
    (hospital.folder / P3_MASK).write_bytes(gzip.compress(content))
    assert check_folder(hospital.folder) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite(hospital, value):
    voxels = hospital.image(3).astype(np.float32)
    voxels[0, 0, :2, 1] = value
    hospital.put(P3_IMAGE, voxels)
    assert only(hospital) == Finding(
        "not-finite", "error", P3_IMAGE, "2 voxels of 240 are NaN or infinite"
    )


def test_a_mask_that_is_not_finite(hospital):
    mask = hospital.mask().astype(np.float32)
    mask[0, 0, 0] = np.nan
    hospital.put(P3_MASK, mask)
    assert only(hospital) == Finding(
        "not-finite", "error", P3_MASK, "1 voxel of 120 are NaN or infinite"
    )


def test_an_image_all_of_nan(hospital):
    hospital.put(P3_IMAGE, np.full((6, 5, 4, 2), np.nan, np.float32))
    codes = [finding.code for finding in check_folder(hospital.folder)]
    assert codes == ["not-finite", "constant-image", "constant-image"]


def test_a_blank_channel(hospital):
    voxels = hospital.image(3)
    voxels[..., 1] = 7
    hospital.put(P3_IMAGE, voxels)
    assert only(hospital) == Finding(
        "constant-image", "warning", P3_IMAGE, "FLAIR has one value only"
    )


def test_a_channel_that_is_a_copy_of_another(hospital):
    voxels = hospital.image(3)
    voxels[..., 1] = voxels[..., 0]
    hospital.put(P3_IMAGE, voxels)
    assert only(hospital) == Finding(
        "duplicate-channel", "warning", P3_IMAGE, "T1 and FLAIR are equal"
    )


def test_an_empty_mask(hospital):
    hospital.put(P3_MASK, np.zeros((6, 5, 4), np.uint8))
    assert only(hospital) == Finding("empty-mask", "warning", P3_MASK, "no voxel is labelled")


def test_a_patient_listed_twice(hospital):
    hospital.put("imagesTr/again.nii.gz", hospital.image(99))
    hospital.put("labelsTr/again.nii.gz", hospital.mask())
    hospital.list("imagesTr/again.nii.gz", "labelsTr/again.nii.gz", patient="P3")
    assert only(hospital) == Finding(
        "duplicate-patient",
        "error",
        "imagesTr/again.nii.gz",
        "patient P3 is listed more than once, also with imagesTr/P3.nii.gz",
    )


def test_several_scans_of_a_patient_that_is_named_are_allowed(hospital):
    for number in (90, 91):
        hospital.put(f"imagesTr/scan{number}.nii.gz", hospital.image(number))
        hospital.put(f"labelsTr/scan{number}.nii.gz", hospital.mask())
        hospital.list(
            f"imagesTr/scan{number}.nii.gz", f"labelsTr/scan{number}.nii.gz", patient="many"
        )
    assert only(hospital) == Finding(
        "several-scans",
        "warning",
        "dataset.json",
        "1 patient has several scans (1 more); a patient's scans stay together in training or in"
        " validation",
    )


def test_a_hospital_that_puts_all_its_patients_aside(hospital):
    hospital.content["validation"] = hospital.content["training"]
    hospital.content["training"] = []
    hospital.save()
    assert only(hospital) == Finding(
        "nothing-to-train", "error", "dataset.json", "all patients are listed for validation"
    )


def test_a_patient_listed_for_training_and_for_validation(hospital):
    hospital.content["validation"] = [hospital.content["training"][3]]
    hospital.save()
    assert only(hospital) == Finding(
        "duplicate-patient", "error", P3_IMAGE, "patient P3 is listed more than once"
    )


def test_one_image_listed_for_two_patients(hospital):
    hospital.put("labelsTr/new.nii.gz", hospital.mask())
    hospital.list(P3_IMAGE, "labelsTr/new.nii.gz", patient="new")
    finding = only(hospital)
    assert finding.code == "duplicate-patient"
    assert finding.detail == "patients P3 and new share this image"


def test_one_mask_listed_for_two_patients(hospital):
    hospital.content["training"][3]["label"] = "labelsTr/P2.nii.gz"
    hospital.save()
    assert only(hospital) == Finding(
        "duplicate-mask", "error", "labelsTr/P2.nii.gz", "patients P2 and P3 share this mask"
    )


def test_the_same_scan_under_two_patients(hospital):
    hospital.put(P3_IMAGE, hospital.image(1))
    assert only(hospital) == Finding(
        "duplicate-image",
        "error",
        P3_IMAGE,
        "the same voxels as imagesTr/P1.nii.gz, of another patient",
    )


def test_a_label_without_a_name(hospital):
    hospital.content["labels"]["1"] = " "
    hospital.save()
    assert only(hospital) == Finding("label-name", "warning", "dataset.json", "value 1 has no name")


def test_a_value_that_means_something_else_in_the_job(hospital):
    assert only(hospital, job(liver=[1])) == Finding(
        "label-name", "warning", "dataset.json", "value 1 is tumour here and liver in the job"
    )


def test_a_region_of_several_values_needs_no_name_in_dataset_json(hospital):
    assert check_folder(hospital.folder, job(whole=[1, 2])) == []


def test_a_structure_that_is_in_no_mask(hospital):
    hospital.content["labels"]["2"] = "edema"
    hospital.save()
    assert only(hospital) == Finding("absent-label", "warning", "", "no mask holds 2 (edema)")
    assert only(hospital, job(tumour=[1], core=[2, 3])).detail == "no mask holds core"


def test_few_patients(hospital):
    del hospital.content["training"][4:]
    hospital.save()
    assert only(hospital) == Finding(
        "too-few-patients",
        "warning",
        "dataset.json",
        "4 patients; fewer than 5 are hardly enough to train or validate",
    )


def test_a_spacing_unlike_the_others(hospital):
    for file, voxels in ((P3_IMAGE, hospital.image(3)), (P3_MASK, hospital.mask())):
        hospital.put(file, voxels, np.diag([1, 1, 5, 1]))
    assert only(hospital) == Finding(
        "spacing-outlier", "warning", P3_IMAGE, "spacing along z is 5 mm, usual here 1 mm"
    )


def test_one_percent_of_difference_is_no_outlier_although_all_others_are_equal(hospital):
    for file, voxels in ((P3_IMAGE, hospital.image(3)), (P3_MASK, hospital.mask())):
        hospital.put(file, voxels, np.diag([1, 1, 1.01, 1]))
    assert check_folder(hospital.folder) == []


def test_a_size_unlike_the_others(hospital):
    hospital.put(P3_IMAGE, np.concatenate([hospital.image(i) for i in range(20, 23)], axis=2))
    hospital.put(P3_MASK, np.concatenate([hospital.mask()] * 3, axis=2))
    assert only(hospital) == Finding(
        "size-outlier", "warning", P3_IMAGE, "size along z is 12 voxels, usual here 4 voxels"
    )


def test_intensities_unlike_the_others(hospital):
    voxels = hospital.image(3).astype(np.float32)
    voxels[..., 0] *= 1000
    hospital.put(P3_IMAGE, voxels)
    finding = only(hospital)
    assert (finding.code, finding.severity) == ("intensity-outlier", "warning")
    assert finding.detail.startswith("standard deviation of T1 is ")


def test_intensities_near_the_limit_of_floating_point(hospital):
    hospital.put(P3_IMAGE, hospital.image(3).astype(np.float64) * 1e305)
    assert check_folder(hospital.folder) == []


def test_a_second_protocol_is_one_finding(hospital):
    for number in range(3):
        voxels = hospital.image(number).astype(np.float32) * 10.0 ** (number + 1)
        hospital.put(f"imagesTr/P{number}.nii.gz", voxels)
    finding = only(hospital)
    assert (finding.code, finding.file) == ("intensity-outlier", "")
    assert finding.detail.startswith(
        "3 of 8 images differ from the rest, most of all imagesTr/P2.nii.gz: "
    )


def test_outliers_need_eight_cases():
    assert far_from_median([1.0] * 6 + [100.0], 2)[1] == {}
    assert list(far_from_median([1.0] * 7 + [100.0], 2)[1]) == [7]


def test_where_cases_vary_by_themselves_more_variation_is_usual():
    varied = [1.0, 2, 4, 8, 16, 32, 64, 128]
    assert far_from_median([*varied, 1000.0], 1.5)[1] == {}
    assert list(far_from_median([*varied, 1e9], 1.5)[1]) == [8]


def test_errors_come_before_warnings(hospital):
    hospital.put("labelsTr/P0.nii.gz", np.zeros((6, 5, 4), np.uint8))
    (hospital.folder / P3_IMAGE).unlink()
    findings = check_folder(hospital.folder)
    assert [finding.severity for finding in findings] == ["error", "warning"]


def test_progress_is_reported_after_each_case(hospital):
    reported = []
    check_folder(hospital.folder, progress=lambda done, total: reported.append((done, total)))
    assert reported == [(number, 8) for number in range(1, 9)]


def test_a_folder_without_a_dataset_json_is_an_error_of_usage(tmp_path):
    with pytest.raises(UsageError, match="missing-file"):
        check_folder(tmp_path)
    with pytest.raises(UsageError, match="missing-folder"):
        check_folder(tmp_path / "nowhere")


@needs_real_data
@pytest.mark.parametrize(
    ("name", "copies", "sizes"),
    [
        ("thomas_jefferson", 0, 0),
        ("henry_ford", 4, 0),
        ("case_western", 2, 0),
        ("case_western_st_joseph", 3, 2),
    ],
)
def test_the_real_hospitals_are_sound_but_for_sequences_that_were_filled_in(name, copies, sizes):
    settings = load_settings(CHECKOUT / "jobs/tumor_segmentation/app/config/settings.json")
    codes = [finding.code for finding in check_folder(LGG / name, settings)]
    assert codes == ["duplicate-channel"] * copies + ["size-outlier"] * sizes
