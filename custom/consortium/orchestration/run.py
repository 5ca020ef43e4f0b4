"""A run from its first round to its result: counts who took part and says whether it is complete.

Complete means: every declared round was closed, every hospital the study declares is in every
aggregate, the last aggregate was scored by all of them, and every hospital answered the other
questions that the job asks. Anything else is named in `reason`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from consortium.orchestration.records import RoundRecord


@dataclass(slots=True)
class RunRecord:
    """The facts of a run.

    Attributes:
        name: id of the run.
        job: name of the job.
        hospitals: that the study declares, sorted.
        rounds: that the job declares.
        records: of the rounds so far.
        final: answers on the last aggregate, by hospital.
        local: answers on each hospital's own model, by hospital; None where not asked.
        missing: for each question, the hospitals that did not answer and their codes.
        stopped_early: whether the selection ended the run.
        trouble: why the run was ended, where something ended it.
    """

    name: str
    job: str
    hospitals: list[str]
    rounds: int
    records: list[RoundRecord] = field(default_factory=list)
    final: dict[str, dict[str, Any]] | None = None
    local: dict[str, dict[str, Any]] | None = None
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    stopped_early: bool = False
    trouble: str = ""

    def reason(self) -> str:
        """Why the run is not complete, or "" where it is."""
        reasons = [self.trouble] if self.trouble else []
        if len(self.records) < self.rounds and not self.stopped_early:
            reasons.append(f"{len(self.records)} of {self.rounds} rounds were done")
        for hospital in self.hospitals:
            absent = [
                record
                for record in self.records
                if hospital in record.asked and hospital not in record.answered
            ]
            if absent:
                reasons.append(
                    f"{hospital} is missing from {_rounds([record.round for record in absent])}"
                    f" ({_why(hospital, absent[0])})"
                )
        if self.final is None and not reasons:
            reasons.append("the last model was not scored")
        for question, hospitals in sorted(self.missing.items()):
            told = ", ".join(f"{name} ({code})" for name, code in sorted(hospitals.items()))
            if told:
                reasons.append(f"no answer to {question} from {told}")
        return "; ".join(reasons)

    def scores_of_model(self, model: int) -> Mapping[str, dict[str, Any] | None]:
        """The hospitals' scores of model `model`: handed out in that round, or the last one."""
        if not self.records:
            return {}
        if model < len(self.records):
            metrics = self.records[model].metrics
            return {name: said["validation"] for name, said in metrics.items()}
        return {name: said["validation"] for name, said in (self.final or {}).items()}


def _rounds(numbers: list[int]) -> str:
    """Counts from 1, as people do; the records count from 0."""
    first, last = numbers[0] + 1, numbers[-1] + 1
    if len(numbers) == 1:
        return f"round {first}"
    if len(numbers) == last - first + 1:
        return f"rounds {first} to {last}"
    return f"{len(numbers)} rounds from {first} to {last}"


def _why(hospital: str, record: RoundRecord) -> str:
    for refusal in record.refused:
        if refusal.hospital == hospital:
            return refusal.code + (f" {refusal.tensor}" if refusal.tensor else "")
    return record.failures.get(hospital, "no answer")
