"""The settings of a job that classifies X-rays."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from consortium.protocol.metrics import MetricSpec, ScoreSpec
from consortium.settings.base import (
    Confounding,
    Count,
    Fraction,
    Positive,
    Section,
    Settings,
    Training,
)
from consortium.settings.names import names_of_files

ACCURACY, AUROC, SENSITIVITY = "accuracy", "AUROC", "sensitivity"
CALIBRATION_ERROR = "calibration error"

CLASS_FIGURES = (AUROC, "average precision", SENSITIVITY, CALIBRATION_ERROR)
"""The figures of each class against all others."""


def class_figure(figure: str, name: str) -> str:
    """The name of one class's figure in a score."""
    return f"{figure}, {name}"


class Radiographs(Section):
    """The content of a hospital's folder of X-rays, and the preprocessing of an X-ray.

    Attributes:
        classes: name of each class, two or more, and the values of the column `label` that make it
            up.
        views: values of the column `view`, or of a DICOM header, that are frontal, whatever their
            case; X-rays of other views are left out.
        size (pixels): side of the square that X-rays are resized to.
        border: share of the side that is cut off all around.
        lungs: whether only the box of the lungs is kept.
        intensity: normalisation of each X-ray: `zscore`, `percentiles` (the 1st and 99th become 0
            and 1), or `equalise`, which makes its histogram flat.
        source: column whose values are the sources that `training.sampling` can draw evenly, or
            null.
        validation_fraction: share of patients for validation, chosen by a hash of the patient's
            id, if `labels.csv` has no column `split`.
        augment: random turns, shifts, zooms and changes of contrast in training.
        specificity: specificity at which a class's sensitivity is reported.
    """

    classes: Annotated[
        dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=2, max_length=20)
    ]
    views: Annotated[list[str], Field(min_length=1)] = Field(
        default=["pa", "ap", "ap supine", "ap erect"]
    )
    size: Annotated[int, Field(ge=32, le=1024)] = 64
    border: Annotated[float, Field(ge=0, lt=0.4)] = 0.0
    lungs: bool = False
    intensity: Literal["zscore", "percentiles", "equalise"] = "zscore"
    source: Annotated[str, Field(min_length=1)] | None = None
    validation_fraction: Fraction = 0.2
    augment: bool = True
    specificity: Annotated[float, Field(gt=0, lt=1)] = 0.9

    @model_validator(mode="after")
    def _consistent(self) -> "Radiographs":
        values = [value for group in self.classes.values() for value in group]
        if len(set(values)) < len(values):
            raise ValueError("classes: a value belongs to one class")
        return self


if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[names_of_files(Path(__file__).parent / "networks")]


class Classifier(Section):
    """A network that classifies X-rays.

    Attributes:
        name: name of a file in `consortium.tasks.classification.networks`: `small`, convolutions
            and a mean over the X-ray, or MONAI's `densenet121`.
        features: channels of each level of `small`, top to bottom.
        normalisation: kind of the normalisation layers.
        dropout: probability of dropout, before the last layer of `small` or within the blocks of
            `densenet121`.
    """

    name: NetworkName = "small"
    features: Annotated[list[Annotated[int, Field(ge=8, multiple_of=8)]], Field(min_length=2)] = (
        Field(default=[16, 32, 64, 128])
    )
    normalisation: Literal["batch", "group", "instance"] = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class RadiographTraining(Training):
    """A hospital's training on X-rays in one round.

    Attributes:
        batch: X-rays in one step.
        sampling: what is drawn equally often: `patients`; `classes` of the hospital; or `sources`,
            the values of `data.source` within a class.
        loss: cross-entropy: `plain`; `weighted` by the inverse of the hospital's class shares; or
            `adjusted`, with the logarithm of the shares added to the logits in training (Menon et
            al., ICLR 2021, eq. 10), so that the network need not learn them. A class
            without a case at the hospital is then learned from the other hospitals alone.
    """

    batch: Count = 32
    learning_rate: Positive = 1e-3
    sampling: Literal["patients", "classes", "sources"] = "patients"
    loss: Literal["plain", "weighted", "adjusted"] = "plain"


class ClassificationSettings(Settings):
    """The settings of a job that classifies X-rays."""

    listing: ClassVar[str] = "labels.csv"
    task: Literal["classification"]
    data: Radiographs
    network: Classifier = Classifier()
    training: RadiographTraining = RadiographTraining()
    confounding: Confounding = Confounding()

    @model_validator(mode="after")
    def _consistent(self) -> "ClassificationSettings":
        if self.training.sampling == "sources" and self.data.source is None:
            raise ValueError("training.sampling sources needs data.source, the name of a column")
        return self

    @property
    def scored(self) -> ScoreSpec:
        """The figures of each class, and the classes."""
        classes = tuple(self.data.classes)
        class_metrics = (
            MetricSpec(
                name=class_figure(figure, name),
                figure=figure,
                of=name,
                required=False,
                headline=figure == AUROC,
                further=figure != AUROC,
                reliability=figure == CALIBRATION_ERROR,
            )
            for figure in CLASS_FIGURES
            for name in classes
        )
        return ScoreSpec((MetricSpec(name=ACCURACY, figure=ACCURACY), *class_metrics), classes)

    @property
    def probe(self) -> Confounding:
        """The settings of the confounding probe, which every run of this task does."""
        return self.confounding

    @property
    def has_statistics(self) -> bool:
        """Whether the network has batch normalisation."""
        return self.network.normalisation == "batch"


SETTINGS = ClassificationSettings
