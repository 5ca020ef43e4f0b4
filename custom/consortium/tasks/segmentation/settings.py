"""The settings of a segmentation job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from consortium.protocol.metrics import MetricSpec, ScoreSpec
from consortium.settings.base import (
    CHOICE,
    SWITCH,
    Count,
    Fraction,
    Positive,
    Section,
    Settings,
    Training,
)
from consortium.settings.names import names_of_files

Flip = Literal["left-right", "back-front", "down-up"]


class Augmentation(Section):
    """Augmentation with chosen flips.

    Attributes:
        flips: directions in which a sample may be flipped. Leave out a direction that tells
            structures apart, such as a front and a back part. A slice (2-D) has no down and up.
    """

    flips: list[Flip]


class Data(Section):
    """The content of a hospital's folder and its preprocessing.

    Attributes:
        spatial_dims: 2 trains on axial slices (volumes are reoriented to RAS first), 3 on patches.
        channels: names of the image's channels, in the order of the files.
        labels: name of each structure and its values in the mask. A value may belong to several
            structures (overlapping regions). A predicted mask holds the first value of each
            structure, later structures over earlier ones.
        spacing (mm): voxel size to resample to, or null to keep the scanner's.
        size (voxels): in 2-D the in-plane size that slices are resized to; in 3-D the patch.
        intensity: normalisation of each channel of each volume.
        validation_fraction: share of patients for validation, chosen by a hash of the patient's id.
        tumour_fraction: share of the slices or patches of a batch that contain a structure.
        augment: random flips in every direction, affine and intensity changes in training; or an
            object with the flips to use.
        cache: share of the training volumes kept in memory after their first use.
    """

    spatial_dims: Literal[2, 3] = 2
    channels: Annotated[list[str], Field(min_length=1)]
    labels: Annotated[dict[str, Annotated[list[int], Field(min_length=1)]], Field(min_length=1)]
    spacing: list[Positive] | None = None
    size: Annotated[list[Count], Field(min_length=2, max_length=3)]
    intensity: Literal["zscore", "zscore-nonzero", "percentiles", "none"] = "zscore-nonzero"
    validation_fraction: Fraction = 0.2
    tumour_fraction: Fraction = 0.5
    augment: Annotated[
        Annotated[bool, Tag(SWITCH)] | Annotated[Augmentation, Tag(CHOICE)],
        Discriminator(lambda given: SWITCH if isinstance(given, (bool, int, str)) else CHOICE),
    ] = True
    cache: Fraction = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        if len(self.size) != self.spatial_dims:
            raise ValueError(f"size needs {self.spatial_dims} numbers in {self.spatial_dims}-D")
        if self.spacing is not None and len(self.spacing) != 3:
            raise ValueError("spacing needs 3 numbers, in mm")
        for name, values in self.labels.items():
            if min(values) < 1 or max(values) > 255:
                raise ValueError(f"labels.{name}: values are 1 to 255; 0 is the background")
        return self


if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[names_of_files(Path(__file__).parent / "networks")]


class Network(Section):
    """A network of MONAI.

    Attributes:
        name: name of a file in `consortium.tasks.segmentation.networks`.
        features: channels of each level, top to bottom.
        residual_units: convolutions in a level's residual unit (unet), blocks in it (segresnet).
        normalisation: kind of normalisation layers.
        dropout: probability of dropout.
    """

    name: NetworkName = "unet"
    features: Annotated[list[Count], Field(min_length=2, max_length=12)] = Field(
        default=[16, 32, 64, 128]
    )
    residual_units: Annotated[int, Field(ge=0, le=32)] = 1
    normalisation: Literal["batch", "group", "instance"] = "batch"
    dropout: Fraction = 0.0


class SegmentationSettings(Settings):
    """The settings of a segmentation job."""

    listing: ClassVar[str] = "dataset.json"
    task: Literal["segmentation"] = "segmentation"
    data: Data
    network: Network = Network()
    training: Training = Training()

    @property
    def scored(self) -> ScoreSpec:
        """The metrics: the Dice of each structure."""
        return ScoreSpec(
            tuple(
                MetricSpec(name=name, figure="Dice", of=name, headline=True)
                for name in self.data.labels
            )
        )

    @property
    def has_statistics(self) -> bool:
        """Whether the network has running statistics, those of batch normalisation."""
        return self.network.normalisation == "batch"


SETTINGS = SegmentationSettings
