"""What is written down of a round and of a run: the lines of `rounds.jsonl` and `result.json`."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """An update that was not taken: who sent it, the tensor at fault or "", and the code."""

    hospital: str
    tensor: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One line of `rounds.jsonl`.

    Attributes:
        round: from 0.
        base_sha256: digest of the model handed out.
        asked: hospitals that the study declares.
        answered: hospitals whose update is in the aggregate.
        refused: updates that were not taken.
        late: hospitals whose update came after the round had closed.
        lost: hospitals that were asked and gave nothing that could be taken or refused.
        failures: code of each hospital that said it failed.
        cases: training cases of each hospital that answered: its weight.
        metrics: of each hospital that answered; the validation score is of the base.
        treatment: of each hospital that answered, where the rule looks at single updates: the part
            of its weight that it `kept` (1 in full, null where unknown), and the `distance` of its
            update from the aggregate in units of the weighted median one.
        score: of the base, over the validation patients of all hospitals; null where unknown.
        best: whether the base is the best model so far.
        result_sha256: digest of the aggregate.
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
        """The record as JSON types, which are its own and not to be changed."""
        raw = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**raw, "refused": [asdict(refusal) for refusal in self.refused]}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "RoundRecord":
        """Rebuilds a record.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**(raw | {"refused": [Refusal(**refusal) for refusal in raw["refused"]]}))
