import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer

from consortium import __version__
from consortium.cli.run import run_app
from consortium.core.errors import Refused

CHECKOUT = Path(__file__).parents[2]
JOB = CHECKOUT / "jobs/tumor_segmentation"


@pytest.fixture
def folder(tmp_path):
    """Six valid patients with the channels and the label of the job tumor_segmentation."""
    folder = tmp_path / "hospital"
    entries = []
    for number in range(6):
        rng = np.random.default_rng(number)
        voxels = rng.integers(0, 200, (6, 5, 4, 3)).astype(np.uint8)
        mask = np.zeros((6, 5, 4), np.uint8)
        mask[2:4, 2:4, 1] = 1
        for part, array in (("imagesTr", voxels), ("labelsTr", mask)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(array, np.eye(4))
            image.to_filename(folder / part / f"P{number}.nii.gz")
        name = f"P{number}.nii.gz"
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "modality": {"0": "pre-contrast", "1": "FLAIR", "2": "post-contrast"},
        "labels": {"0": "background", "1": "tumour"},
        "training": entries,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def damage(folder):
    (folder / "imagesTr/P2.nii.gz").unlink()
    mask = np.zeros((6, 5, 4), np.uint8)
    nib.Nifti1Image(mask, np.eye(4)).to_filename(folder / "labelsTr/P4.nii.gz")


def test_a_sound_folder(consortium, folder):
    done = "6 cases, 6 patients: 0 errors, 0 warnings\n"
    assert consortium("check-data", folder) == (0, done, "")


def test_findings_are_printed_by_kind_with_what_to_do(consortium, folder):
    damage(folder)
    code, out, err = consortium("check-data", folder)
    assert code == 1
    assert out == (
        "error missing-file\n"
        "  imagesTr/P2.nii.gz: no such file\n"
        "  Copy the file there, or remove its entry from the list.\n"
        "\n"
        "warning empty-mask\n"
        "  labelsTr/P4.nii.gz: no voxel is labelled\n"
        "  Check that the patient has no labelled structure.\n"
        "\n"
        "6 cases, 6 patients: 1 error, 1 warning\n"
    )
    assert err == f"error findings: 1 error in the data, {folder}, see the list above\n"


def test_warnings_alone_are_no_failure(consortium, folder, tmp_path):
    damage(folder)
    (folder / "imagesTr/P2.nii.gz").write_bytes((folder / "imagesTr/P3.nii.gz").read_bytes())
    content = json.loads((folder / "dataset.json").read_text())
    del content["training"][2]
    (folder / "dataset.json").write_text(json.dumps(content))
    code, out, err = consortium("check-data", folder, "--json", tmp_path / "findings.json")
    assert (code, err) == (0, "")
    assert out.endswith("5 cases, 5 patients: 0 errors, 1 warning\n")
    assert json.loads((tmp_path / "findings.json").read_text())["ok"] is True


def test_the_json_file_holds_ok_and_the_findings(consortium, folder, tmp_path):
    damage(folder)
    assert consortium("check-data", folder, "--json", tmp_path / "new/findings.json")[0] == 1
    assert json.loads((tmp_path / "new/findings.json").read_text()) == {
        "ok": False,
        "findings": [
            {
                "code": "missing-file",
                "severity": "error",
                "file": "imagesTr/P2.nii.gz",
                "detail": "no such file",
            },
            {
                "code": "empty-mask",
                "severity": "warning",
                "file": "labelsTr/P4.nii.gz",
                "detail": "no voxel is labelled",
            },
        ],
    }


@pytest.mark.parametrize("name", ["findings.json", "imagesTr/../findings.json"])
def test_a_json_file_inside_the_data_is_refused(consortium, folder, name):
    code, out, err = consortium("check-data", folder, "--json", folder / name)
    assert (code, out) == (3, "")
    where = folder / name
    assert err == (f"error inside-data: the file is inside DIR, {where}, choose a file elsewhere\n")
    assert not (folder / "findings.json").exists()


def test_a_json_file_behind_a_link_into_the_data_is_refused(consortium, folder, tmp_path):
    (tmp_path / "elsewhere").symlink_to(folder)
    code, _, _ = consortium("check-data", folder, "--json", tmp_path / "elsewhere/findings.json")
    assert code == 3


def state(folder):
    return {
        path: (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in (folder, *folder.rglob("*"))
    }


def test_nothing_is_written_into_the_folder(consortium, folder):
    damage(folder)
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    before = state(folder)
    assert consortium("check-data", folder, "--job", JOB)[0] == 1
    assert state(folder) == before
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


@pytest.mark.parametrize("job", [JOB, JOB / "app/config/settings.json", "tumor_segmentation"])
def test_a_job_is_given_by_folder_file_or_name(consortium, folder, monkeypatch, job):
    content = json.loads((folder / "dataset.json").read_text())
    content["modality"]["1"] = "T2"
    (folder / "dataset.json").write_text(json.dumps(content))
    monkeypatch.chdir(CHECKOUT / "tests")
    code, out, _ = consortium("check-data", folder, "--job", job)
    assert code == 1
    expected = "pre-contrast, FLAIR, post-contrast; the data have pre-contrast, T2"
    assert expected in " ".join(out.split())


def test_an_unknown_job(consortium, folder):
    code, out, err = consortium("check-data", folder, "--job", "nonesuch")
    assert (code, out) == (2, "")
    assert (
        err == "error unknown-job: no such job, nonesuch, give its folder, name or settings.json\n"
    )


def test_a_missing_folder(consortium, tmp_path):
    code, out, err = consortium("check-data", tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert err == f"error missing-folder: no such folder, {tmp_path / 'nowhere'}, check the path\n"


def test_a_long_list_of_one_kind_is_cut(consortium, folder):
    content = json.loads((folder / "dataset.json").read_text())
    for number in range(30):
        content["training"].append({"image": f"new{number}.nii", "label": f"new{number}.nii"})
    (folder / "dataset.json").write_text(json.dumps(content))
    _, out, _ = consortium("check-data", folder)
    assert out.count("no such file") == 20
    assert "  and 40 more; --json FILE lists all\n" in out


def test_names_cannot_steer_the_terminal(consortium, folder):
    content = json.loads((folder / "dataset.json").read_text())
    content["training"][0]["image"] = "\x1b[2J[bold]\ud800.nii"
    (folder / "dataset.json").write_text(json.dumps(content))
    code, out, _ = consortium("check-data", folder)
    assert code == 1
    assert "?[2J[bold]?.nii" in out


def test_an_unknown_command(consortium):
    assert consortium("chek-data") == (
        2,
        "",
        "error usage: No such command 'chek-data'. Did you mean 'check-data'?,"
        " see consortium --help\n",
    )


@pytest.mark.parametrize("argv", [[], ["check-data"], ["check-data", "x", "y"], ["--wrong"]])
def test_an_error_of_usage_is_one_line(consortium, argv):
    code, out, err = consortium(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("error usage: ")
    assert err.count("\n") == 1


def test_the_version(consortium):
    assert consortium("--version") == (0, f"consortium {__version__}\n", "")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_traceback_is_shown_with_debug_alone(consortium, tmp_path, where):
    argv = ["check-data", str(tmp_path)]
    assert "Traceback" not in consortium(*argv)[2]
    argv.insert(where, "--debug")
    code, _, err = consortium(*argv)
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error missing-file: ")


def ends(capsys, argv=(), raises=None):
    """Returns exit code and stderr of an application whose only command raises an exception."""
    small = typer.Typer(add_completion=False)

    @small.command()
    def only() -> None:
        if raises:
            raise raises

    with pytest.raises(SystemExit) as ended:
        run_app(small, argv)
    return ended.value.code, capsys.readouterr().err


def test_an_unexpected_error_is_one_line(capsys):
    assert ends(capsys, raises=ValueError("two\nlines")) == (
        4,
        "error internal: ValueError: two lines, run again with --debug\n",
    )
    assert ends(capsys, raises=AssertionError())[1].startswith("error internal: AssertionError, ")
    assert "Traceback" in ends(capsys, ["--debug"], raises=ValueError("x"))[1]


def test_a_full_disk(capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")
    assert ends(capsys, raises=full) == (
        4,
        "error disk-full: no space left, /data/x, free some space\n",
    )


def test_a_refusal(capsys):
    refused = Refused("other-model", "another network", "best.safetensors", "give the right one")
    line = "error other-model: another network, best.safetensors, give the right one\n"
    assert ends(capsys, raises=refused) == (3, line)


def test_an_interruption_by_the_keyboard(capsys):
    assert ends(capsys, raises=KeyboardInterrupt()) == (130, "")


def test_a_command_chooses_its_exit_code(capsys):
    assert ends(capsys) == (0, "")
    assert ends(capsys, raises=typer.Exit(1)) == (1, "")


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys; import consortium.cli.main;"
        "heavy = ('torch', 'monai', 'nibabel', 'numpy', 'nvflare', 'pydicom', 'highdicom');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_columns_are_proposed_for_review_and_nothing_is_replaced(consortium, clinics, tmp_path):
    output = tmp_path / "columns.json"
    code, out, err = consortium("check-data", clinics / "north", "--propose", output)
    assert (code, out) == (0, f"wrote {output}: 11 columns\n")
    assert "put privacy into local/hospital.json" in err
    columns = json.loads(output.read_text())["privacy"]["columns"]
    assert columns["sex"] == ["0", "1"]
    assert columns["age"][0] == 0
    assert not {"patient", "split"} & columns.keys()
    code, _, err = consortium("check-data", clinics / "north", "--propose", output)
    assert code == 3
    assert err.startswith("error exists: there is such a file")
    of_job = ("check-data", clinics / "north", "--propose", "-", "--job", "heart_disease")
    code, out, _ = consortium(*of_job)
    assert code == 0
    assert json.loads(out)["privacy"]["columns"]["age"] == [0, 120]


def test_a_folder_of_scans_has_no_columns_to_propose(consortium, generated, tmp_path):
    inside = generated / "north" / "columns.json"
    assert consortium("check-data", generated / "north", "--propose", inside)[0] == 3
    code, _, err = consortium("check-data", generated / "north", "--propose", "-")
    assert code == 3
    assert err.startswith("error no-columns")
