"""The records of rounds: the lines of `rounds.jsonl`."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

ROUNDS = "rounds.jsonl"
"""File of the records in a run's results."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refused updates of one round.

    Attributes:
        hospital: the sender.
        tensor: the faulty tensor, or "".
        code: why.
        times: number of updates that were refused so.
    """

    hospital: str
    tensor: str
    code: str
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One line of `rounds.jsonl`.

    Attributes:
        round: number of the round, from 0.
        base_sha256: digest of the base model, which was sent to the hospitals.
        asked: hospitals that were asked.
        answered: hospitals whose update is in the aggregate.
        refused: updates that were refused.
        late: hospitals whose update arrived after the round had closed.
        lost: hospitals that were asked and sent no update.
        failures: code of each hospital that reported a failure.
        cases: number of training cases of each hospital that answered; its weight.
        metrics: metrics of each hospital that answered; their validation score is of the base
            model.
        treatment: for each hospital that answered, if the rule inspects single updates: the share
            of its weight that it `kept` (1 for all, null if unknown), and the `distance` of its
            update from the aggregate in units of the weighted median distance.
        score: score of the base model over the validation patients of all hospitals; null if
            unknown.
        best: whether the base model is the best so far.
        result_sha256: digest of the model after the round.
    """

    round: int
    base_sha256: str
    asked: list[str]
    answered: list[str]
    refused: list[Refusal]
    late: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    treatment: dict[str, dict[str, float | None]] = field(default_factory=dict)
    score: float | None = None
    best: bool = False
    result_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as JSON types; the caller must not change them."""
        raw = {member.name: getattr(self, member.name) for member in fields(self)}
        return {**raw, "refused": [asdict(refusal) for refusal in self.refused]}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "RoundRecord":
        """Rebuilds a record.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**(raw | {"refused": [Refusal(**refusal) for refusal in raw["refused"]]}))
