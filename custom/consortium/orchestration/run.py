"""The record of a run, and whether the run is complete.

A run is complete if every declared round was closed, every hospital is in the aggregate of every
round that asked it, all hospitals scored the last aggregate, and every hospital answered the job's
other requests. `reason` names anything else.
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
        hospitals: the study's hospitals, sorted.
        rounds: number of rounds that the job declares.
        records: records of the rounds so far.
        final: metrics of the last aggregate, by hospital.
        local: metrics of each hospital's local model, by hospital; None if not requested.
        missing: for each request, the hospitals that did not answer and their codes.
        stopped_early: whether the selection ended the run.
        trouble: why the run ended early; empty if it did not.
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
        """Explains why the run is not complete; "" if it is."""
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
        for request, hospitals in sorted(self.missing.items()):
            silent = ", ".join(f"{name} ({code})" for name, code in sorted(hospitals.items()))
            if silent:
                reasons.append(f"no answer to {request} from {silent}")
        return "; ".join(reasons)

    def last_cases(self) -> dict[str, int]:
        """Returns the training cases of each hospital in the last round that it answered."""
        cases: dict[str, int] = {}
        for record in self.records:
            cases |= record.cases
        return cases

    def scores_of_model(self, model: int) -> Mapping[str, dict[str, Any] | None]:
        """Returns the hospitals' scores of a round's base model, or of the last aggregate."""
        if not self.records:
            return {}
        if model < len(self.records):
            metrics = self.records[model].metrics
            return {name: values["validation"] for name, values in metrics.items()}
        return {name: values["validation"] for name, values in (self.final or {}).items()}


def _rounds(numbers: list[int]) -> str:
    """Describes round numbers for people, who count from 1; the records count from 0."""
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
