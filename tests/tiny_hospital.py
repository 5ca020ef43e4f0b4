import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE = (6, 5, 4)


@dataclass
class TinyHospital:
    """A folder of tiny cases: two channels, one label; sound unless a test changes it."""

    folder: Path
    content: dict[str, Any] = field(
        default_factory=lambda: {
            "modality": {"0": "T1", "1": "FLAIR"},
            "labels": {"0": "background", "1": "tumour"},
            "training": [],
        }
    )

    def image(self, number: int) -> NDArray[Any]:
        rng = np.random.default_rng(number)
        return rng.integers(0, 200, (*SHAPE, 2)).astype(np.uint8)

    def mask(self) -> NDArray[Any]:
        voxels = np.zeros(SHAPE, np.uint8)
        voxels[2:4, 2:4, 1] = 1
        return voxels

    def add(self, patient: str, number: int) -> None:
        self.put(f"imagesTr/{patient}.nii.gz", self.image(number))
        self.put(f"labelsTr/{patient}.nii.gz", self.mask())
        self.list(f"./imagesTr/{patient}.nii.gz", f"./labelsTr/{patient}.nii.gz")

    def put(self, name: str, voxels: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_filename(path)
        return path

    def list(self, image: str, label: str, **more: str) -> None:
        self.content["training"].append({"image": image, "label": label, **more})
        self.save()

    def save(self) -> None:
        (self.folder / "dataset.json").write_text(json.dumps(self.content))
