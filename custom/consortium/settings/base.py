"""A job's `settings.json`: every choice of a study, with its default, its range and its unit.

The file is read once, at the orchestrator and at each hospital alike, and validated whole: an
unknown key or a value out of range is refused with the dotted path of the setting. Nothing here
knows how a setting is used.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)

from consortium.core.errors import UsageError
from consortium.protocol.metrics import FIGURES, Scored, radiograph_figures
from consortium.settings.names import names_of_files
from consortium.settings.rules import RULES, option_fields

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Optimiser = Literal["adamw", "sgd"]


class Section(BaseModel):
    """A part of the settings: frozen, and of known names only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


# Branches of a union, which pydantic puts into the path of an error.
_SWITCH, _CHOICE = "#switch", "#choice"

Flip = Literal["left-right", "back-front", "down-up"]


class Augmentation(Section):
    """The random changes of training, where all flips would be too many.

    Attributes:
        flips: directions in which a sample may be mirrored. Structures that are told apart by
            where they lie, such as a front and a back part, are not to be mirrored that way. A
            slice (2-D) has no down and up.
    """

    flips: list[Flip]


class Data(Section):
    """What a hospital's folder holds and how it becomes tensors.

    Attributes:
        spatial_dims: 2 trains on axial slices (volumes are turned to RAS first), 3 on patches.
        channels: names of the image's channels, in the order of the files.
        labels: name of each structure and the values in the mask that make it up. Values may
            belong to several structures (overlapping regions). In a predicted mask a structure is
            painted with its first value, later structures over earlier ones.
        spacing: voxel size in mm to resample to, or null to keep the scanner's.
        size: voxels. In 2-D the in-plane size that slices are resized to; in 3-D the patch.
        intensity: normalisation of each channel of each volume.
        validation_fraction: share of patients, chosen by a hash of the patient's id.
        tumour_fraction: share of the slices or patches of a batch that contain a structure.
        augment: random flips in every direction, affine and intensity changes in training; or an
            object with the flips that are meant.
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
        Annotated[bool, Tag(_SWITCH)] | Annotated[Augmentation, Tag(_CHOICE)],
        Discriminator(lambda given: _SWITCH if isinstance(given, (bool, int, str)) else _CHOICE),
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
    SegmentationNetwork = str
    ClassificationNetwork = str
else:
    _TASKS = Path(__file__).parents[1] / "tasks"
    SegmentationNetwork = Literal[names_of_files(_TASKS / "segmentation" / "networks")]
    ClassificationNetwork = Literal[names_of_files(_TASKS / "classification" / "networks")]


class Network(Section):
    """A network of MONAI.

    Attributes:
        name: of a file in `consortium.tasks.segmentation.networks`.
        features: channels of each level, top to bottom.
        residual_units: convolutions of a level's residual unit (unet), blocks (segresnet).
        normalisation: normalisation layers.
        dropout: probability.
    """

    name: SegmentationNetwork = "unet"
    features: Annotated[list[Count], Field(min_length=2)] = [16, 32, 64, 128]
    residual_units: Annotated[int, Field(ge=0)] = 1
    normalisation: Literal["batch", "group", "instance"] = "batch"
    dropout: Fraction = 0.0


class Outcome(Section):
    """What is predicted of a patient.

    Attributes:
        column: of the table.
        classes: name of each class and the values in the column that make it up; two, of which the
            second is the one that is looked for.
    """

    column: Annotated[str, Field(min_length=1)]
    classes: Annotated[
        dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=2, max_length=2)
    ]

    @model_validator(mode="after")
    def _consistent(self) -> "Outcome":
        values = [value for group in self.classes.values() for value in group]
        if len(set(values)) < len(values):
            raise ValueError("classes: a value belongs to one class")
        return self


class Table(Section):
    """What a hospital's table (`patients.csv`) holds and how it becomes numbers.

    Attributes:
        numbers: columns of numbers, with the least and the largest value that makes sense in the
            job's unit, which become 0 and 1; what lies outside is refused as given in another unit.
        categories: columns of categories, with all values they may have. The first is what the
            others are compared with: each of them becomes an input that is 0 or 1.
        outcome: what is predicted.
        validation_fraction: share of patients, chosen by a hash of the patient's id, where the
            table has no column `split`.
    """

    numbers: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = {}
    categories: dict[str, Annotated[list[str], Field(min_length=2)]] = {}
    outcome: Outcome
    validation_fraction: Fraction = 0.2

    @model_validator(mode="after")
    def _consistent(self) -> "Table":
        names = [*self.numbers, *self.categories, self.outcome.column, "patient", "split"]
        if len(set(names)) < len(names):
            raise ValueError("a column has one use; patient and split have theirs")
        if not self.inputs:
            raise ValueError("numbers or categories: name a column")
        for name, (low, high) in self.numbers.items():
            if low >= high:
                raise ValueError(f"numbers.{name}: the least value, then the largest")
        for name, values in self.categories.items():
            if len(set(values)) < len(values):
                raise ValueError(f"categories.{name}: a value is there twice")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table, that the job reads, in the order of the settings."""
        return (*self.numbers, *self.categories, self.outcome.column)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Of the network: the numbers, then every category but the first of its column."""
        later = (f"{name} {value}" for name, of in self.categories.items() for value in of[1:])
        return (*self.numbers, *later)


class Radiographs(Section):
    """What a hospital's folder of X-rays holds and how an X-ray becomes a tensor.

    Attributes:
        classes: name of each class, two or more, and the values of the column `label` that make it
            up.
        views: values of the column `view`, or of a DICOM header, that are frontal, whatever their
            case; X-rays of other views are left out.
        size: pixels, the side of the square that X-rays are resized to.
        border: share of the side that is cut off all around.
        lungs: whether only the box of the lungs is kept.
        intensity: normalisation of each X-ray: `zscore`, `percentiles` (the 1st and 99th become 0
            and 1), or `equalise`, which makes its histogram flat.
        source: column by whose values `training.sampling` `sources` draws, or null.
        validation_fraction: share of patients, chosen by a hash of the patient's id, where
            `labels.csv` has no column `split`.
        augment: random turns, shifts, zooms and changes of contrast in training.
        specificity: at which a class's sensitivity is told.
    """

    classes: Annotated[
        dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=2, max_length=20)
    ]
    views: Annotated[list[str], Field(min_length=1)] = ["pa", "ap", "ap supine", "ap erect"]
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


class Classifier(Section):
    """A network that classifies X-rays.

    Attributes:
        name: of a file in `consortium.tasks.classification.networks`: `small`, convolutions and a
            mean over the X-ray, or MONAI's `densenet121`.
        features: channels of each level of `small`, top to bottom.
        normalisation: normalisation layers.
        dropout: probability, before the last layer of `small`, within the blocks of `densenet121`.
    """

    name: ClassificationNetwork = "small"
    features: Annotated[list[Annotated[int, Field(ge=8, multiple_of=8)]], Field(min_length=2)] = [
        16,
        32,
        64,
        128,
    ]
    normalisation: Literal["batch", "group", "instance"] = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Logistic(Section):
    """A logistic regression over standardised inputs.

    Attributes:
        name: `logistic`.
    """

    name: Literal["logistic"] = "logistic"


class Training(Section):
    """A hospital's work in one round.

    Attributes:
        local_steps (steps): optimiser steps a round.
        local_epochs (passes): passes over the hospital's training slices (volumes in 3-D) a round,
            instead of a number of steps: a large hospital works longer than a small one.
        local_minutes (minutes): time after which a round's steps end, whatever their number, but at
            least one. The speed of a machine differs from day to day, so the same model is not
            promised. If hospitals take different numbers of steps, the average is closer to those
            that take more (Wang et al., NeurIPS 2020, on FedNova).
        optimiser: `adamw`, or `sgd` without momentum. The steps of `sgd` are as large as the
            gradient, so that a hospital with little to teach moves the model little.
        batch: slices or patches a step.
        learning_rate: the rate at the first step of the first round.
        final_learning_rate: share of the rate that is left at the last step of the last round
            (cosine).
        weight_decay: weight decay of AdamW; with `sgd` the factor of the weights that the gradient
            gains.
        clip: bound on the gradient's L2 norm.
        mixed_precision: mixed precision on a GPU; a CPU always trains in float32.
    """

    local_steps: Count = 20
    local_epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    local_minutes: Positive | None = None
    optimiser: Optimiser = "adamw"
    batch: Count = 16
    learning_rate: Positive = 2e-3
    final_learning_rate: Fraction = 0.01
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    clip: Positive = 5.0
    mixed_precision: bool = True


class TabularTraining(Training):
    """A hospital's work in one round, on a table.

    Attributes:
        batch: patients a step.
    """

    batch: Count = 4
    learning_rate: Positive = 1e-3
    final_learning_rate: Fraction = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive = 100.0
    optimiser: Optimiser = "sgd"


class RadiographTraining(Training):
    """A hospital's work in one round, on X-rays.

    Attributes:
        batch: X-rays a step.
        sampling: `patients` draws every training patient as often as another; `classes` every
            class of the hospital; `sources` every value of `data.source` within a class.
        loss: `plain` cross-entropy; `weighted` by the inverse of the hospital's class shares;
            `adjusted` by their logarithm, which is added to the logits in training (Menon et al.,
            ICLR 2021, eq. 10), so that the network need not learn them. A class that the hospital
            has no case of is then left to the others.
    """

    batch: Count = 32
    learning_rate: Positive = 1e-3
    sampling: Literal["patients", "classes", "sources"] = "patients"
    loss: Literal["plain", "weighted", "adjusted"] = "plain"


class Confounding(Section):
    """How the probe tests whether the model learned the disease or the hospital.

    Attributes:
        leave_one_out: trains another model without each hospital, and scores it there. Each of
            them is as much work again as the run, so it is not done with more than `most`
            hospitals.
        most (hospitals): the largest number of hospitals for `leave_one_out`.
        dimensions: number of the model's features that are reported, of a seeded random
            projection; fewer than the patients of the smallest group that a hospital lets out.
        pictures (X-rays): X-rays of each class on which a hospital draws, for itself, where the
            model looks.
    """

    leave_one_out: bool = True
    most: Count = 8
    dimensions: Annotated[int, Field(ge=1, le=64)] = 4
    pictures: Annotated[int, Field(ge=0, le=100)] = 3


class Update(Section):
    """What crosses from a hospital to the orchestrator.

    Attributes:
        buffers: floating-point buffers (batch-norm statistics) are `averaged`, or kept `local`.
            With `local` no hospital's statistics leave it. The federated model then holds the
            initial ones and serves these hospitals alone: `predict` and `evaluate` refuse it.
        max_cases (cases): refuses an update that claims more training cases.
        max_change: refuses an update with an element beyond this magnitude; counters, which are
            integers, are exempt.
        compression: sends updates in `bfloat16`, half of the bytes, or `int8`, a quarter. The
            residual of the rounding goes with the hospital's next update.
    """

    buffers: Literal["averaged", "local"] = "averaged"
    max_cases: Annotated[int, Field(ge=1, le=100_000)] = 100_000
    max_change: Annotated[float, Field(gt=0, le=65536)] = 65536.0
    compression: Literal["bfloat16", "int8"] | None = None


if TYPE_CHECKING:
    RuleName = str
else:
    RuleName = Literal[tuple(RULES)]


class Aggregation(Section):
    """A rule and its options, where its name alone is not enough.

    Attributes:
        rule: name of a file of `consortium.aggregation`.
    """

    rule: RuleName

    @model_validator(mode="after")
    def _consistent(self) -> "Aggregation":
        for option in self.options:
            rules = [name for name, options in RULES.items() if option in options]
            if self.rule not in rules:
                raise ValueError(f"{option} is an option of {', '.join(rules)}")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """That are set."""
        return self.model_dump(exclude={"rule"}, exclude_none=True)


if TYPE_CHECKING:
    RuleWithOptions = Aggregation
else:
    # The options are those of the rules' own files.
    RuleWithOptions = create_model(
        "Aggregation",
        __base__=Aggregation,
        __doc__=Aggregation.__doc__,
        **option_fields(RULES),
    )


class Adaptive(Section):
    """A learning rate for every coordinate (Reddi et al., ICLR 2021).

    Attributes:
        method: FedAdagrad, FedAdam or FedYogi.
        beta2: share of the squares' mean that is kept each round; FedAdagrad keeps all.
        tau: the least divisor of a step, in units of a change.
    """

    method: Literal["adagrad", "adam", "yogi"]
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3


class Server(Section):
    """What the orchestrator makes of a round's aggregate change.

    Attributes:
        momentum: share of the previous step that is taken again, in Nesterov's form; 0 is FedAvg.
            With `adaptive` the share of the changes' mean that is kept each round.
        learning_rate: factor of the step.
        adaptive: divides each coordinate's step by the size of its past changes.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learning_rate: Positive = 1.0
    adaptive: Adaptive | None = None


class Selection(Section):
    """Which round's model is kept.

    Attributes:
        keep: the `average` of the last rounds' models, the `last` one, or the `best` by the mean
            score (Dice, accuracy, AUROC) over all validation patients; a score on the patients that
            chose the model is too good, the more so the fewer they are.
        share: share of the rounds whose models are averaged; the last ones, at least one.
        patience (rounds): rounds without a better score after which the run stops, if the best is
            kept; 0 never stops early.
    """

    keep: Literal["average", "best", "last"] = "average"
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    patience: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> "Selection":
        if self.patience and self.keep != "best":
            raise ValueError('patience needs keep to be "best"')
        return self


class Model(Section):
    """Where the first round starts.

    Attributes:
        from_: path of a model bundle or of a checkpoint (`.safetensors`) at the orchestrator, or
            null to start from nothing. Written `from` in the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    from_: Annotated[str | None, Field(alias="from")] = None


class Settings(Section, ABC):
    """All settings of a job; a class of each task says what `data`, `network` and `training` hold.

    Attributes:
        task: the kind of task; it decides what `data`, `network` and `training` hold.
        seed: start of all randomness, which is a function of (seed, hospital, round).
        rounds (rounds): rounds of training.
        aggregation: the rule by which updates are combined: its name, or an object with the rule
            and its options.
        baseline: each hospital also trains a local model, alone, and sends its metric, never the
            model.
        cross_site: scores every hospital's model at every hospital. It shows a hospital's model to
            the others, so it is off unless the hospitals agreed to it.
    """

    task: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    rounds: Count = 10
    data: Section
    network: Section
    training: Training
    update: Update = Update()
    aggregation: Annotated[
        Annotated[RuleName, Tag(_SWITCH)] | Annotated[RuleWithOptions, Tag(_CHOICE)],
        Discriminator(lambda given: _SWITCH if isinstance(given, str) else _CHOICE),
    ] = "weighted_mean"
    server: Server = Server()
    selection: Selection = Selection()
    model: Model = Model()
    baseline: bool = False
    cross_site: bool = False

    @property
    def rule(self) -> Aggregation:
        """The rule of the aggregation and its options."""
        given = self.aggregation
        return RuleWithOptions(rule=given) if isinstance(given, str) else given

    @property
    @abstractmethod
    def scored(self) -> Scored:
        """What a hospital's score is of."""

    @property
    def probe(self) -> Confounding | None:
        """How it is found out what the model learned, where the task asks."""
        return None

    @property
    @abstractmethod
    def has_statistics(self) -> bool:
        """Whether the network holds statistics of the patients that it was trained on."""


class SegmentationSettings(Settings):
    """Of a job that outlines structures on scans."""

    task: Literal["segmentation"] = "segmentation"
    data: Data
    network: Network = Network()
    training: Training = Training()

    @property
    def scored(self) -> Scored:
        """The Dice of each structure."""
        return Scored("dice", tuple(self.data.labels))

    @property
    def has_statistics(self) -> bool:
        """Of batch normalisation."""
        return self.network.normalisation == "batch"


class TabularSettings(Settings):
    """Of a job that predicts an outcome from a table of patients.

    With `update.buffers` `averaged` the inputs that are numbers are standardised by mean and
    variance over all hospitals' training patients, and the model serves everybody; `local`: all
    inputs by the hospital's own, which never leave it.
    """

    task: Literal["tabular"]
    data: Table
    network: Logistic = Logistic()
    training: TabularTraining = TabularTraining()

    @property
    def scored(self) -> Scored:
        """The figures of a classification and the classes they are of."""
        return Scored("classes", FIGURES, tuple(self.data.outcome.classes))

    @property
    def has_statistics(self) -> bool:
        """Those that standardise the inputs."""
        return True


class ClassificationSettings(Settings):
    """Of a job that tells classes of X-rays apart."""

    task: Literal["classification"]
    data: Radiographs
    network: Classifier = Classifier()
    training: RadiographTraining = RadiographTraining()
    confounding: Confounding = Confounding()

    @model_validator(mode="after")
    def _consistent(self) -> "ClassificationSettings":
        if self.training.sampling == "sources" and self.data.source is None:
            raise ValueError("training.sampling sources needs the column, data.source")
        return self

    @property
    def scored(self) -> Scored:
        """The figures of each class, and the classes."""
        classes = tuple(self.data.classes)
        return Scored("classes", radiograph_figures(classes), classes)

    @property
    def probe(self) -> Confounding:
        """Asked of every run."""
        return self.confounding

    @property
    def has_statistics(self) -> bool:
        """Of batch normalisation."""
        return self.network.normalisation == "batch"


TASKS: Mapping[str, type[Settings]] = {
    "segmentation": SegmentationSettings,
    "tabular": TabularSettings,
    "classification": ClassificationSettings,
}
"""The settings of each task."""


def parse_settings(raw: Mapping[str, Any], where: str = "settings.json") -> Settings:
    """Validates a job's settings.

    Raises:
        UsageError: `unknown-setting` or `bad-setting`, naming the dotted path.
    """
    task = raw.get("task", "segmentation")
    if not isinstance(task, str) or task not in TASKS:
        raise UsageError(
            "bad-setting",
            f"setting task: there is no {json.dumps(task)[:80]}",
            where,
            f"name {' or '.join(TASKS)}",
        )
    try:
        return TASKS[task].model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"] if part not in (_SWITCH, _CHOICE)]
        path = ".".join(parts) or "settings"
        if first["type"] == "extra_forbidden":
            raise UsageError(
                "unknown-setting",
                f"there is no setting {path}",
                where,
                "see the names in the job's settings.json",
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] == "missing" else f" (given: {json.dumps(first['input'])[:80]})"
        raise UsageError(
            "bad-setting", f"setting {path}: {message}{given}", where, "correct the value"
        ) from None


def load_settings(path: Path) -> Settings:
    """Reads and validates a `settings.json`.

    Raises:
        UsageError: the file is missing, no JSON, or a setting is refused.
    """
    return parse_settings(read_json_object(path), path.name)


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file whose top level is an object.

    Raises:
        UsageError: `missing-file` or `bad-json`.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("missing-file", "no such file", str(path), "check the path") from None
    except (OSError, ValueError) as error:
        raise UsageError("bad-json", f"not a JSON file ({error})", str(path), "repair it") from None
    if not isinstance(raw, dict):
        raise UsageError("bad-json", "the top level is no object", str(path), "repair it")
    return raw


def override(raw: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Applies `KEY=VALUE` assignments to the content of a settings file.

    KEY is a dotted path, VALUE is JSON or, where it is not, taken as a string.

    Args:
        raw: content of a `settings.json`; not changed.
        assignments: each `KEY=VALUE`.

    Returns:
        A copy with the values set. Keys are checked by `parse_settings`, not here.

    Raises:
        UsageError: `bad-assignment` for one without `=` or a path through a value.
    """
    result: dict[str, Any] = json.loads(json.dumps(raw))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UsageError(
                "bad-assignment", f"{assignment!r} is not KEY=VALUE", "--set", "write KEY=VALUE"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *parents, last = key.split(".")
        section = result
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise UsageError(
                    "unknown-setting", f"there is no setting {key}", "--set", "see settings.json"
                )
        section[last] = value
    return result
