"""The protocols: the sequences of a study and the labels of its masks.

A patient has the same head and tumour under every protocol.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consortium.synthetic.scanner import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A study's images and masks.

    Attributes:
        channels: the sequence of each channel, by the channel's name, in the files' order.
        labels: names of the mask's values, from 0.
        values: the mask's values for no tumour, oedema, a necrotic or non-enhancing core, and an
            enhancing core.
        volume: default in 3-D: voxels along each side of a slice, and number of slices.
    """

    channels: Mapping[str, Sequence]
    labels: tuple[str, ...]
    values: tuple[int, int, int, int]
    volume: tuple[int, int]

    def mask(self, parts: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Maps a tumour's parts to the values of the mask, both of shape (X, Y, Z)."""
        return np.array(self.values, np.uint8)[parts]


PROTOCOLS = {
    "lgg": Protocol(
        channels={
            "pre-contrast": Sequence.T1,
            "FLAIR": Sequence.FLAIR,
            "post-contrast": Sequence.T1_CONTRAST,
        },
        labels=("background", "oedema", "core"),
        values=(0, 1, 2, 2),
        volume=(64, 40),
    ),
    "brats": Protocol(
        channels={
            "FLAIR": Sequence.FLAIR,
            "T1w": Sequence.T1,
            "T1gd": Sequence.T1_CONTRAST,
            "T2w": Sequence.T2,
        },
        labels=("background", "oedema", "non-enhancing tumour", "enhancing tumour"),
        values=(0, 1, 2, 3),
        volume=(80, 56),  # of 3 mm, so that the rim of a core is a voxel or more
    ),
}
"""Protocols by the public data set with their channels and labels: TCGA-LGG as prepared by Buda et
al. (Comput Biol Med 109, 2019), and BraTS as in the Medical Segmentation Decathlon's Task01."""
