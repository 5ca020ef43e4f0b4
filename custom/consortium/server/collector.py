"""Collects one round's updates at the orchestrator: each is accepted, refused or missing.

Invariants: an update is validated once and accepted whole or not at all; each hospital counts at
most once a round; every hospital that was asked is accounted for when the round closes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from consortium.aggregation import RULES
from consortium.aggregation.rule import InvalidUpdate, Treatment
from consortium.core.errors import Failure, Incomplete
from consortium.core.plurals import plural
from consortium.orchestration.records import Refusal
from consortium.protocol.metrics import Metrics
from consortium.protocol.schema import ModelSchema
from consortium.protocol.update import Expected, Update, UpdateRefused, validate
from consortium.settings.base import Settings

_MOST_TENSORS = 20
"""Tensors of a hospital's refusals that are named in a round; a hospital can make names up."""


@dataclass(slots=True)
class Report:
    """The outcome of one round, by hospital.

    Attributes:
        answered: hospitals whose update is in the aggregate, sorted.
        refused: refusals, sorted by hospital, counted by hospital, code and tensor.
        late: hospitals that answered an earlier round, in this one or before it opened, sorted.
        lost: hospitals that were asked and sent no update, sorted.
        failures: code of each hospital that reported a failure.
        cases: training cases of each hospital that answered.
        metrics: of each hospital that answered.
        treatment: how the rule treated each hospital's update, if it examines single updates.
    """

    answered: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    treatment: dict[str, Treatment] = field(default_factory=dict)


class UpdateCollector:
    """Collects the updates of a round and aggregates them.

    Args:
        settings: aggregation rule and bounds.
        schema: of the model.
    """

    def __init__(self, settings: Settings, schema: ModelSchema):
        chosen = settings.rule
        self._rule = RULES[chosen.rule](
            schema, max_change=settings.update.max_change, **chosen.options
        )
        self._bounds = settings.update
        self._scored = settings.scored
        self._schema = schema
        self._asked: tuple[str, ...] = ()
        self._known: set[str] = set()
        self._expected: Expected | None = None
        self._report = Report()
        self._refusals: Counter[tuple[str, str, str]] = Counter()  # hospital, code, tensor

    @property
    def buffers_updates(self) -> bool:
        """Whether the rule keeps updates in memory until the round closes."""
        return self._rule.buffers_updates

    def open(self, round_number: int, base_sha256: str, asked: Sequence[str]) -> None:
        """Opens a round; discards the updates of one that was not closed."""
        if self._expected is not None:
            self._report = Report()
            self._refusals.clear()
        self._rule.reset()
        self._asked = tuple(asked)
        self._known.update(asked)
        self._expected = Expected(
            round_number,
            base_sha256,
            self._schema,
            self._bounds.max_cases,
            self._bounds.max_change,
            self._scored,
        )

    def submit(self, update: Update) -> None:
        """Accepts an update.

        Raises:
            UpdateRefused: the update is refused, and recorded as such. Besides the codes of
                `validate`: `late`, `not-asked`, `duplicate`, `out-of-range`.
        """
        try:
            if update.hospital not in self._known:
                raise UpdateRefused(update.hospital, "not-asked")
            if self._expected is None or update.round < self._expected.round:
                self._note_late(update.hospital)
                raise UpdateRefused(update.hospital, "late")
            if update.hospital not in self._asked:
                raise UpdateRefused(update.hospital, "not-asked")
            if update.hospital in self._report.cases:
                raise UpdateRefused(update.hospital, "duplicate")
            validate(update, self._expected, values=False)
            try:
                self._rule.add(update.hospital, update.tensors, update.cases)
            except InvalidUpdate as invalid:
                raise UpdateRefused(update.hospital, invalid.code, invalid.tensor) from None
        except UpdateRefused as refusal:
            self.refuse(refusal)
            raise
        self._report.cases[update.hospital] = update.cases
        self._report.metrics[update.hospital] = update.metrics

    def record_late(self, hospital: str) -> None:
        """Records that a hospital has an update for a closed round, without receiving it."""
        self._note_late(hospital)
        self.refuse(UpdateRefused(hospital, "late"))

    def _note_late(self, hospital: str) -> None:
        self._report.late = sorted({*self._report.late, hospital})

    def refuse(self, refusal: UpdateRefused) -> None:
        """Records a refusal that was decided before the update could be decoded."""
        hospital, code, tensor = refusal.hospital, refusal.code, refusal.tensor
        named = {key[2] for key in self._refusals if key[0] == hospital}
        if tensor not in named and len(named) >= _MOST_TENSORS:
            tensor = ""
        self._refusals[hospital, code, tensor] += 1

    def refusals_of(self, hospital: str) -> int:
        """Counts the refusals of a hospital since the last round was closed."""
        return sum(times for key, times in self._refusals.items() if key[0] == hospital)

    def fail(self, failure: Failure) -> None:
        """Records that a hospital reported a failure."""
        self._report.failures[failure.hospital] = failure.code

    def close(
        self, minimum: int = 1, mandatory: Sequence[str] = ()
    ) -> tuple[dict[str, Tensor], Report]:
        """Closes the round.

        Args:
            minimum: number of updates that the round needs.
            mandatory: hospitals whose update the round needs.

        Returns:
            The aggregated change, and the outcome of the round.

        Raises:
            Incomplete: `no-quorum`, if one of these is missing; the round stays open.
        """
        report = self._report
        if len(report.cases) < minimum or not set(mandatory) <= report.cases.keys():
            reasons = {hospital: code for hospital, code, _ in self._refusals}
            reasons |= report.failures
            listed = "; ".join(f"{name} {code}" for name, code in sorted(reasons.items()))
            raise Incomplete(
                "no-quorum",
                f"{plural(len(report.cases), 'update was', 'updates were')} accepted"
                f" and the round needs {minimum}"
                + (f", including {', '.join(mandatory)}" if mandatory else ""),
                listed or "the others did not answer",
                "see errors.log at the hospitals",
            )
        self._report = Report()
        report.answered = sorted(report.cases)
        report.refused = [
            Refusal(hospital, tensor, code, times)
            for (hospital, code, tensor), times in sorted(self._refusals.items())
        ]
        self._refusals.clear()
        refused = {refusal.hospital for refusal in report.refused}
        report.lost = sorted(set(self._asked) - set(report.cases) - refused)
        report.cases = dict(sorted(report.cases.items()))
        report.metrics = dict(sorted(report.metrics.items()))
        self._expected = None
        aggregate = self._rule.aggregate()
        self._rule.reset()
        report.treatment = aggregate.treatment
        return aggregate.change, report
