import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from consortium.cli.generate import app
from consortium.cli.run import run_app
from consortium.core.errors import EnvironmentProblem, UsageError
from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS
from consortium.tasks.segmentation.datalist import read_datalist, split_cases

TWO_EACH = tuple(replace(hospital, patients=2, held_out=0) for hospital in HOSPITALS)
SMALL = {"in_plane": 32, "slices": 8}


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "study"
    generate(out, TWO_EACH, seed=7)
    return out


def test_each_hospital_gets_a_folder_that_the_datalist_reads(study: Path) -> None:
    assert {path.name for path in study.iterdir()} == {h.name for h in HOSPITALS}
    for hospital in TWO_EACH:
        datalist = read_datalist(study / hospital.name)
        assert datalist.channels == ("pre-contrast", "FLAIR", "post-contrast")
        assert datalist.labels == {0: "background", 1: "oedema", 2: "core"}
        assert [case.patient for case in datalist.cases] == [
            f"{hospital.name}-0001",
            f"{hospital.name}-0002",
        ]
        listed = {path for case in datalist.cases for path in (case.image, case.label)}
        assert listed == set((study / hospital.name).glob("*Tr/*"))
        raw = json.loads((study / hospital.name / "dataset.json").read_text())
        assert raw["numTraining"] == len(raw["training"]) == 2


def test_the_table_names_each_patient_with_sex_age_and_scanner(study: Path) -> None:
    for hospital in TWO_EACH:
        with (study / hospital.name / "patients.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["patient"] for row in rows] == [
            case.patient for case in read_datalist(study / hospital.name).cases
        ]
        for row in rows:
            assert row["sex"] in {"female", "male"}
            assert hospital.age[0] <= int(row["age"]) <= hospital.age[1]
            assert row["scanner"] in {scanner.name for scanner in hospital.scanners}


def test_image_and_mask_share_one_grid_in_millimetres(study: Path) -> None:
    for hospital in HOSPITALS:
        for case in read_datalist(study / hospital.name).cases:
            image, mask = nib.load(case.image), nib.load(case.label)
            assert image.shape == (96, 96, 18, 3)
            assert mask.shape == (96, 96, 18)
            assert image.get_data_dtype() == np.int16
            assert mask.get_data_dtype() == np.uint8
            np.testing.assert_array_equal(image.affine, mask.affine)
            zooms = image.header.get_zooms()[:3]
            assert 2 < zooms[0] == zooms[1] < 3
            assert 6 < zooms[2] <= 7
            assert image.header.get_xyzt_units()[0] == "mm"


def test_some_scanners_store_their_axes_the_other_way_round() -> None:
    assert {s.orientation for h in HOSPITALS for s in h.scanners} == {"RAS", "LPS"}


def test_orientation_turns_the_stored_axes_and_not_the_patient(tmp_path: Path) -> None:
    north = TWO_EACH[0]
    for orientation in ("RAS", "LPS"):
        scanners = tuple(replace(s, orientation=orientation) for s in north.scanners)
        generate(tmp_path / orientation, [replace(north, scanners=scanners)], seed=3, **SMALL)
    path = "north/labelsTr/north-0001.nii.gz"
    ras, lps = (nib.load(tmp_path / orientation / path) for orientation in ("RAS", "LPS"))
    assert nib.aff2axcodes(ras.affine) == ("R", "A", "S")
    assert nib.aff2axcodes(lps.affine) == ("L", "P", "S")
    back = nib.as_closest_canonical(lps)
    np.testing.assert_allclose(back.affine, ras.affine)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(ras.dataobj))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed, processes in (("first", 1, 1), ("again", 1, 3), ("other", 2, 1)):
        generate(tmp_path / name, TWO_EACH[:1], seed=seed, processes=processes, **SMALL)
    first, again, other = (content(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith(".nii.gz"))


def test_a_hospital_depends_neither_on_the_others_nor_on_later_patients(tmp_path: Path) -> None:
    generate(tmp_path / "all", TWO_EACH, seed=1, **SMALL)
    generate(tmp_path / "alone", [replace(TWO_EACH[2], patients=1)], seed=1, **SMALL)
    name = TWO_EACH[2].name
    together, alone = content(tmp_path / "all" / name), content(tmp_path / "alone" / name)
    scans = [path for path in alone if path.endswith(".nii.gz")]
    assert len(scans) == 2
    assert all(alone[path] == together[path] for path in scans)


def test_three_dimensions_give_voxels_of_equal_sides(tmp_path: Path) -> None:
    generate(tmp_path / "out", TWO_EACH[1:2], seed=1, spatial_dims=3)
    (case, _) = read_datalist(tmp_path / "out" / TWO_EACH[1].name).cases
    image, mask = nib.load(case.image), nib.load(case.label)
    assert image.shape == (64, 64, 40, 3)
    assert mask.shape == (64, 64, 40)
    assert np.allclose(image.header.get_zooms()[:3], image.header.get_zooms()[0])
    assert set(np.unique(np.asarray(mask.dataobj))) == {0, 1, 2}


def test_the_command_writes_four_channels_and_three_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(HOSPITALS[1], patients=1, held_out=1)
    monkeypatch.setattr("consortium.tasks.segmentation.synthetic.HOSPITALS", [small])
    with pytest.raises(SystemExit, match="0"):
        run_app(app, [str(tmp_path / "out"), "--dims", "3", "--like", "brats"])
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'harbour'}: 2 patients\n"
    datalist = read_datalist(tmp_path / "out" / "harbour")
    assert datalist.channels == ("FLAIR", "T1w", "T1gd", "T2w")
    assert datalist.labels[3] == "enhancing tumour"
    for case in datalist.cases:
        assert nib.load(case.image).shape == (80, 80, 56, 4)
        assert set(np.unique(np.asarray(nib.load(case.label).dataobj))) <= set(datalist.labels)


def test_an_unknown_protocol_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_app(app, [str(tmp_path / "out"), "--like", "ct"])
    known = "lgg or brats or chest or heart"
    message = f"error unknown-protocol: there is no such protocol, ct, name {known}\n"
    assert capsys.readouterr().err == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("occupy", ["file in it", "file instead"])
def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path, occupy: str) -> None:
    out = tmp_path / "out"
    kept = out
    if occupy == "file in it":
        out.mkdir()
        kept = out / "notes.txt"
    kept.write_text("mine")
    with pytest.raises(UsageError, match="folder-in-use"):
        generate(out, TWO_EACH, seed=0)
    assert content(tmp_path) == {str(kept.relative_to(tmp_path)): b"mine"}


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    generate(tmp_path, TWO_EACH[:1], seed=0, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["north"]


def test_two_hospitals_of_one_name_and_negative_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same-name"):
        generate(tmp_path / "out", [TWO_EACH[0], TWO_EACH[0]], seed=0)
    with pytest.raises(UsageError, match="bad-seed"):
        generate(tmp_path / "out", TWO_EACH, seed=-1)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_of_a_hospital(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, packed = gzip.compress, []

    def fill_up(*args: object, **options: object) -> bytes:
        packed.append(args)
        if len(packed) > 5:
            raise OSError(28, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr("consortium.synthetic.dataset.gzip.compress", fill_up)
    with pytest.raises(EnvironmentProblem, match="disk-full"):
        generate(tmp_path / "out", TWO_EACH, seed=0, **SMALL)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["north"]


def test_the_command_reports_an_error_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "used").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        run_app(app, [str(tmp_path)])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error folder-in-use: ")
    assert printed.err.count("\n") == 1


def test_held_out_patients_are_listed_for_validation_and_never_train(tmp_path: Path) -> None:
    generate(tmp_path / "out", [replace(HOSPITALS[3], patients=3, held_out=2)], seed=1, **SMALL)
    split = split_cases(read_datalist(tmp_path / "out" / "hillside"), 0.5)
    assert [case.patient for case in split.training] == [f"hillside-000{n}" for n in (1, 2, 3)]
    assert [case.patient for case in split.validation] == ["hillside-0004", "hillside-0005"]
