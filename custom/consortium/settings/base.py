"""The sections of a job's `settings.json` that all tasks share, and how a value is overridden.

Every setting has a default, a range and a unit. Each task defines its own `data`, `network` and
`training`; `consortium.tasks.registry` reads a file. Nothing here knows how a setting is used.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import rfc8785
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from consortium.core.errors import UsageError
from consortium.core.json_files import parse_json
from consortium.protocol.metrics import ScoreSpec
from consortium.protocol.pipeline import build_pipeline
from consortium.settings.rules import RULES, option_fields

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Optimiser = Literal["adamw", "sgd"]


class Section(BaseModel):
    """A part of the settings: frozen, with known names only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


SWITCH, CHOICE = "#switch", "#choice"
"""Branches of a union, which pydantic adds to the path of an error."""


class Training(Section):
    """A hospital's work in one round.

    Attributes:
        local_steps (steps): optimiser steps a round.
        local_epochs (passes): passes over the hospital's training slices (volumes in 3-D) a round,
            instead of a number of steps: a large hospital works longer than a small one.
        local_minutes (minutes): time after which a round's training ends, after at least one step.
            The speed of a machine varies, so the model is not reproducible. If hospitals take
            different numbers of steps, the average is closer to those that take more (Wang et al.,
            NeurIPS 2020, on FedNova).
        optimiser: `adamw`, or `sgd` without momentum. With `sgd`, a step is as large as the
            gradient, so a hospital with small gradients moves the model little.
        batch: slices or patches a step.
        learning_rate: the rate at the first step of the first round.
        final_learning_rate: share of the rate that is left at the last step of the last round
            (cosine).
        weight_decay: weight decay of AdamW; with `sgd`, this factor times the weights is added to
            the gradient.
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


class Confounding(Section):
    """How the probe tests whether the model learned the disease or the hospital.

    Attributes:
        leave_one_out: trains one more model without each hospital and scores it there. Each model
            costs as much work as the run, so it is skipped with more than `most` hospitals. These
            trainings report no scores: where `selection.keep` is `best`, their last model is kept.
        most (hospitals): the largest number of hospitals for `leave_one_out`.
        dimensions: number of the model's features that hospitals report, from a seeded random
            projection. It must be below every hospital's smallest group of patients.
        pictures (X-rays): number of X-rays of each class on which a hospital marks, for itself
            only, where the model looks.
    """

    leave_one_out: bool = True
    most: Count = 8
    dimensions: Annotated[int, Field(ge=1, le=64)] = 4
    pictures: Annotated[int, Field(ge=0, le=100)] = 3


class UpdateSettings(Section):
    """The updates that hospitals send to the orchestrator.

    Attributes:
        buffers: floating-point buffers (batch-norm statistics) are `averaged`, or kept `local`.
            With `local`, no hospital sends its statistics. The federated model then holds initial
            statistics and works at these hospitals only: `predict` and `evaluate` refuse it.
        max_cases (cases): refuses an update that claims more training cases.
        max_change: refuses an update with an element beyond this magnitude; counters, which are
            integers, are exempt.
        compression: sends updates in `bfloat16`, half of the bytes, or `int8`, a quarter. The
            residual of the rounding is added to the hospital's next update.
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
    """An aggregation rule with its options.

    Attributes:
        rule: name of a rule, which is a file of `consortium.aggregation`.
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
        """The options that are set."""
        return self.model_dump(exclude={"rule"}, exclude_none=True)

    @property
    def needs_plain_updates(self) -> bool:
        """Whether the rule inspects single updates; the mean needs only their sum."""
        return self.rule != "weighted_mean"


if TYPE_CHECKING:
    RuleWithOptions = Aggregation
else:
    # The rules' own files declare the options.
    RuleWithOptions = create_model(
        "Aggregation",
        __base__=Aggregation,
        __doc__=Aggregation.__doc__,
        **option_fields(RULES),
    )


class Adaptive(Section):
    """Separate learning rates for all coordinates (Reddi et al., ICLR 2021).

    Attributes:
        method: FedAdagrad, FedAdam or FedYogi.
        beta2: share of the mean square that is kept each round; FedAdagrad keeps all.
        tau: the smallest divisor of a step, in units of a change.
    """

    method: Literal["adagrad", "adam", "yogi"]
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3


class Server(Section):
    """The server optimiser, which turns a round's aggregate into the step of the model.

    Attributes:
        momentum: share of the previous step that is repeated, in Nesterov's form; 0 is FedAvg. With
            `adaptive`, share of the mean change that is kept each round.
        learning_rate: factor of the step.
        adaptive: divides each coordinate's step by the size of its past changes.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learning_rate: Positive = 1.0
    adaptive: Adaptive | None = None


class Selection(Section):
    """Which round's model is kept.

    Attributes:
        keep: the `average` of the last rounds' models, the `last` model, or the `best` by the
            task's headline score: the mean over the hospitals, weighted by validation patients,
            where none of three or more hospitals counts for more than a third. The score of a model
            on the patients that selected it is too good, above all with few patients.
        share: share of the rounds, counted from the last, whose models are averaged; at least one.
        patience (rounds): rounds without a better score after which the run stops, if `keep` is
            `best`; 0 never stops early.
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
    """The model from which the first round starts.

    Attributes:
        from_: path of a model bundle or of a checkpoint (`.safetensors`), in a federation below the
            folder of models that the orchestrator's operator offers; `run:ID` starts from the model
            that an earlier run of the same submitter keeps; null starts from random weights.
            Written `from` in the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    from_: Annotated[str | None, Field(alias="from")] = None


class Settings(Section, ABC):
    """All settings of a job; each task has a class that defines `data`, `network` and `training`.

    Attributes:
        listing: file of a hospital's folder that lists its cases.
        task: the kind of task; it decides what `data`, `network` and `training` hold.
        seed: seed of all randomness, which is a function of seed, hospital and round.
        rounds (rounds): rounds of training.
        aggregation: the rule by which updates are combined: its name, or an object with the rule
            and its options.
        baseline: each hospital also trains a local model and sends its metric, never the model.
        cross_site: scores every hospital's local model at every hospital. It reveals a hospital's
            model to the others, so it is off unless the hospitals agreed to it.
    """

    listing: ClassVar[str]
    task: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    rounds: Count = 10
    data: Section
    network: Section
    training: Training
    update: UpdateSettings = UpdateSettings()
    aggregation: Annotated[
        Annotated[RuleName, Tag(SWITCH)] | Annotated[RuleWithOptions, Tag(CHOICE)],
        Discriminator(lambda given: SWITCH if isinstance(given, str) else CHOICE),
    ] = "weighted_mean"
    server: Server = Server()
    selection: Selection = Selection()
    model: Model = Model()
    baseline: bool = False
    cross_site: bool = False

    @model_validator(mode="after")
    def _pipeline_fits(self) -> "Settings":
        needs = self.rule.needs_plain_updates
        build_pipeline(self.update).check(self.rule.rule, needs_plain_updates=needs)
        return self

    @property
    def rule(self) -> Aggregation:
        """The rule of the aggregation and its options."""
        given = self.aggregation
        return RuleWithOptions(rule=given) if isinstance(given, str) else given

    @property
    def digest(self) -> str:
        """SHA-256 of all settings, in hexadecimal; two files that say the same have the same."""
        return hashlib.sha256(
            rfc8785.dumps(self.model_dump(mode="json", by_alias=True))
        ).hexdigest()

    @property
    @abstractmethod
    def scored(self) -> ScoreSpec:
        """The figures and classes of the job's scores."""

    @property
    def validation_fraction(self) -> float:
        """Share of a hospital's patients for validation, unless its own list says otherwise."""
        return float(getattr(self.data, "validation_fraction", 0.5))

    @property
    def probe(self) -> Confounding | None:
        """The settings of the confounding probe, if the task has one."""
        return None

    @property
    @abstractmethod
    def has_statistics(self) -> bool:
        """Whether the network holds statistics of its training patients."""

    @property
    def needs_own_statistics(self) -> bool:
        """Whether a model works only at the hospitals that trained it, each with its statistics."""
        return self.update.buffers == "local" and self.has_statistics


def override(raw: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Applies `KEY=VALUE` assignments to the content of a settings file.

    KEY is a dotted path. VALUE is JSON; anything else is a string.

    Args:
        raw: content of a `settings.json`; not changed.
        assignments: each `KEY=VALUE`.

    Returns:
        A copy with the values set. `parse_settings` checks the keys.

    Raises:
        UsageError: `bad-assignment` for an assignment without a key or `=`, `unknown-setting` for a
            path through a value.
    """
    result: dict[str, Any] = json.loads(json.dumps(raw))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UsageError(
                "bad-assignment", f"{assignment!r} is not KEY=VALUE", "--set", "write KEY=VALUE"
            )
        try:
            value = parse_json(text)
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
