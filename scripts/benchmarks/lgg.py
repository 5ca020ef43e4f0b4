"""The 82 patients of four hospitals for the accuracy benchmark (TCGA-LGG, Buda et al. 2019).

The data are not in this repository. The patients of each hospital, in the order of the sha256 of
their ids, are dealt round robin to five folds, so that every fold has its share of every hospital.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from consortium.core.errors import UsageError
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.tasks.folders import hospital_folders
from consortium.tasks.segmentation.datalist import Case, patient_of, read_datalist

Folds = Mapping[str, list[str]]
"""Patients of one fold, by hospital."""

ROOT = Path(__file__).parents[2]
PLACE = "CONSORTIUM_REAL_DATA"
_FOLDS = Path(__file__).with_name("lgg_folds.json")


@dataclass(frozen=True, slots=True)
class Patients:
    """Patients by hospital.

    Attributes:
        folders: folders of the hospitals, by name.
        chosen: ids of the chosen patients, by hospital.
    """

    folders: Mapping[str, Path]
    chosen: Mapping[str, Collection[str]]

    def cases(self) -> dict[str, Case]:
        """Returns the case of each patient."""
        return {
            case.patient: case
            for name, folder in self.folders.items()
            for case in read_datalist(folder).cases
            if case.patient in self.chosen.get(name, ())
        }

    def hospital_of(self) -> dict[str, str]:
        """Returns the hospital of each patient."""
        return {patient: name for name, patients in self.chosen.items() for patient in patients}

    def write(self, out: Path) -> dict[str, Path]:
        """Writes a folder for each hospital, with all patients for training; scans are linked.

        Returns:
            The folders by name.
        """
        for name, folder in self.folders.items():
            raw = read_json_object(folder / "dataset.json")
            raw["training"] = [
                entry
                for entry in [*raw["training"], *raw.pop("validation", [])]
                if patient_of(entry) in self.chosen.get(name, ())
            ]
            (out / name).mkdir(parents=True)
            for part in ("imagesTr", "labelsTr"):
                (out / name / part).symlink_to(folder / part, target_is_directory=True)
            write_json(out / name / "dataset.json", raw)
        return {name: out / name for name in self.folders}


def find_data(name: str) -> Path:
    """Finds the folder of a real data set: in `PLACE`, or in `shared/data` next to the checkout.

    Raises:
        UsageError: `no-real-data`.
    """
    folder = Path(os.environ.get(PLACE, ROOT.parent / "shared" / "data")) / name
    if not folder.is_dir():
        raise UsageError(
            "no-real-data",
            "no such folder",
            str(folder),
            f"set {PLACE} to the folder of the data sets",
        )
    return folder.resolve()


def deal(patients: Mapping[str, Collection[str]], folds: int) -> list[Folds]:
    """Deals each hospital's patients round robin, in the order of the sha256 of their ids."""
    dealt: list[dict[str, list[str]]] = [{} for _ in range(folds)]
    ordered = [
        (name, patient)
        for name in sorted(patients)
        for patient in sorted(patients[name], key=lambda p: hashlib.sha256(p.encode()).digest())
    ]
    for position, (name, patient) in enumerate(ordered):
        dealt[position % folds].setdefault(name, []).append(patient)
    return [{name: sorted(chosen) for name, chosen in fold.items()} for fold in dealt]


def read_folds() -> list[Folds]:
    """Reads the committed folds."""
    folds: list[Folds] = json.loads(_FOLDS.read_text(encoding="utf-8"))
    return folds


def choose(data: Path, folds: Sequence[Folds], chosen: Collection[int]) -> Patients:
    """Returns the patients of some folds."""
    folders = hospital_folders(data)
    return Patients(
        folders,
        {
            name: [p for fold in sorted(chosen) for p in folds[fold].get(name, [])]
            for name in folders
        },
    )
