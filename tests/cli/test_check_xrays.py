"""`consortium check-data` for X-ray images."""

import numpy as np
from tests.xrays import radiograph, rows, write_radiographs


def test_a_sound_folder_of_radiographs(consortium, tmp_path):
    folder = write_radiographs(tmp_path / "hospital")
    done = (0, "12 cases, 12 patients: 0 errors, 0 warnings\n", "")
    assert consortium("check-data", folder, "--job", "covid_detection") == done
    assert consortium("check-data", folder) == done


def test_findings_on_radiographs_are_printed_with_what_to_do(consortium, tmp_path):
    listed = [["missing.png", *row[1:]] if row[0] == "04.png" else row for row in rows()]
    listed[7][3] = "LATERAL"
    folder = write_radiographs(tmp_path / "hospital", listed)
    path = folder / "images/02.png"
    path.write_bytes(path.read_bytes()[:2000])
    code, out, err = consortium("check-data", folder, "--job", "covid_detection")
    assert code == 1
    assert out == (
        "error missing-file\n"
        "  images/missing.png: no such file\n"
        "  Copy the file there, or remove its entry from the list.\n"
        "\n"
        "error unreadable-file\n"
        "  images/02.png: damaged: cut off\n"
        "  Copy or export the file again.\n"
        "\n"
        "warning other-view\n"
        "  labels.csv: 1 of 12 X-rays are of other views (LATERAL) and are left out\n"
        "  Check the view. The setting data.views names the views that the job uses.\n"
        "\n"
        "12 cases, 12 patients: 2 errors, 1 warning\n"
    )
    assert err == f"error findings: 2 errors in the data, {folder}, see the list above\n"


def test_radiographs_are_compared_over_the_whole_folder(consortium, tmp_path):
    pictures = {f"{number:02}.png": radiograph(number) for number in range(12)}
    pictures["05.png"] = np.uint8(255) - radiograph(5)
    folder = write_radiographs(tmp_path / "hospital", pictures=pictures)
    code, out, _ = consortium("check-data", folder, "--job", "covid_detection")
    assert code == 0
    assert out.startswith("warning inverted-image\n  images/05.png: correlates by -0.")


def test_a_folder_without_labels_is_one_line(consortium, tmp_path):
    (tmp_path / "images").mkdir()
    code, out, err = consortium("check-data", tmp_path, "--job", "covid_detection")
    where = tmp_path / "labels.csv"
    assert (code, out) == (2, "")
    assert err == f"error missing-file: no such file, {where}, check the path\n"
