"""The orchestrator's side of the border: one round's updates are taken, refused, or missed.

What always holds: an update is validated once and taken whole or not at all; each hospital counts
at most once a round; and every hospital that was asked is accounted for when the round closes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from consortium.aggregation import RULES
from consortium.aggregation.rule import InvalidUpdate, Treatment
from consortium.core.errors import Failure, Incomplete
from consortium.orchestration.records import Refusal
from consortium.protocol.metrics import Metrics
from consortium.protocol.schema import ModelSchema
from consortium.protocol.update import Expected, Update, UpdateRefused, validate
from consortium.settings.base import Settings


@dataclass(slots=True)
class Report:
    """Who did what in one round.

    Attributes:
        answered: hospitals whose update is in the aggregate, sorted.
        refused: refusals, sorted by hospital.
        late: hospitals that answered an earlier round, in this one or before it opened, sorted.
        lost: hospitals that were asked and whose work is missing, sorted.
        failures: code of each hospital that said it failed.
        cases: training cases of each hospital that answered.
        metrics: of each hospital that answered.
        treatment: what the rule made of each hospital's update, where it looks at single ones.
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
    """Takes the updates of a round and gives their aggregate.

    Args:
        settings: rule and bounds.
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

    @property
    def buffers_updates(self) -> bool:
        """Whether the rule keeps updates in memory until the round closes."""
        return self._rule.buffers_updates

    def open(self, round_number: int, base_sha256: str, asked: Sequence[str]) -> None:
        """Starts a round; what an unclosed one had taken is forgotten."""
        if self._expected is not None:
            self._report = Report()
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
        """Takes an update.

        Raises:
            UpdateRefused: it is not taken, and is recorded as refused. Beside the codes of
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
            except InvalidUpdate as unfit:
                raise UpdateRefused(update.hospital, unfit.code, unfit.tensor) from None
        except UpdateRefused as refusal:
            self.refuse(refusal)
            raise
        self._report.cases[update.hospital] = update.cases
        self._report.metrics[update.hospital] = update.metrics

    def late(self, hospital: str) -> None:
        """Records that a hospital has an update for a round that has closed, unseen."""
        self._note_late(hospital)
        self.refuse(UpdateRefused(hospital, "late"))

    def _note_late(self, hospital: str) -> None:
        self._report.late = sorted({*self._report.late, hospital})

    def refuse(self, refusal: UpdateRefused) -> None:
        """Records a refusal that was decided before an update could be rebuilt."""
        self._report.refused.append(Refusal(refusal.hospital, refusal.tensor, refusal.code))

    def fail(self, failure: Failure) -> None:
        """Records that a hospital says it cannot answer."""
        self._report.failures[failure.hospital] = failure.code

    def close(
        self, minimum: int = 1, mandatory: Sequence[str] = ()
    ) -> tuple[dict[str, Tensor], Report]:
        """Ends the round.

        Args:
            minimum: updates that must have been taken.
            mandatory: hospitals whose update must have been.

        Returns:
            The aggregate change, and who did what.

        Raises:
            Incomplete: `no-quorum`, where they were not; the round stays open.
        """
        report = self._report
        if len(report.cases) < minimum or not set(mandatory) <= report.cases.keys():
            reasons = {refusal.hospital: refusal.code for refusal in report.refused}
            reasons |= report.failures
            told = "; ".join(f"{name} {code}" for name, code in sorted(reasons.items()))
            raise Incomplete(
                "no-quorum",
                f"{len(report.cases)} updates were taken and the round needs {minimum}"
                + (f", of {', '.join(mandatory)} among them" if mandatory else ""),
                told or "the others did not answer",
                "see errors.log at the hospitals",
            )
        self._report = Report()
        report.answered = sorted(report.cases)
        refused = {refusal.hospital for refusal in report.refused}
        report.lost = sorted(set(self._asked) - set(report.cases) - refused)
        report.cases = dict(sorted(report.cases.items()))
        report.metrics = dict(sorted(report.metrics.items()))
        report.refused.sort(key=lambda refusal: (refusal.hospital, refusal.code, refusal.tensor))
        self._expected = None
        found = self._rule.aggregate()
        self._rule.reset()
        report.treatment = found.treatment
        return found.change, report
