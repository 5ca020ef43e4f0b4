"""The scores that a hospital reports, over all runs: how many, and of which models.

A score of a chosen model is a question about the outcomes of the validation patients. Invariants:

* The same model in the same run gets the same answer, and is counted once; so a resumed run gives
  the same bytes.
* A run is answered as many models as it has rounds, and `FURTHER` more; all runs together as many
  as the hospital's `privacy.questions`.
* Two answers never rest on predictions that differ in fewer patients than the smallest group: the
  figures of the nearest earlier answer are repeated.
* Figures are rounded, so that their digits tell no more than their value.

The files lie in `Site.home`: `questions/TASK.json` counts, and holds the numbers of the answers by
run and model; each answer is a file of its own.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.core.errors import Refused
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import Site
from consortium.core.site_record import fingerprint, open_record
from consortium.protocol.metrics import TOO_MANY_QUESTIONS, Metrics, Score
from consortium.settings.base import Settings
from consortium.tasks.measurement import (
    Measured,
    ScoredGroup,
    changed_order,
    changed_values,
    ranks,
)

FURTHER = 5
"""Models that a run may have scored beside those of its rounds: the final one, for example."""

_ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class _Group:
    """What is kept of a group of figures that was stated.

    Attributes:
        plain: JSON values: `subject`, `figures`, `intervals`, `curve`, `values`, `positive`.
        values: (patients,).
        positive: (patients,), or None.
    """

    plain: dict[str, Any]
    values: NDArray[Any]
    positive: NDArray[np.bool_] | None


class Questions:
    """Answers the questions of one run.

    Args:
        site: the hospital's own choices.
        settings: the job's.
    """

    def __init__(self, site: Site, settings: Settings):
        self._site, self._task = site, settings.task
        self._limit = settings.rounds + FURTHER + settings.baseline
        self._stated: dict[int, tuple[str, list[_Group]]] = {}

    def score(self, model: str, measured: Measured) -> Score | None:
        """Returns the score to report.

        Args:
            model: identifies the model in this run, such as its digest.
            measured: the model's evaluation.

        Raises:
            Refused: `too-many-questions`.
            EnvironmentProblem: what the hospital keeps cannot be read or written.
        """
        if measured.score is None or measured.score.withheld is not None:
            return measured.score
        if not self._site.privacy.questions:
            return Score(withheld=TOO_MANY_QUESTIONS)
        with open_record(self._site.home, f"questions/{self._task}") as record:
            number = self._known(record, model)
            if number is None:
                number = record["asked"]
                patients = fingerprint(record, *measured.patients)
                answer = self._answer(number, patients, measured)
                self._keep(record, model, number, answer)
            return Score.model_validate(self._read(number)["score"])

    def probe(self, model: str, metrics: Metrics) -> Metrics:
        """Returns the statistics for the confounding probe, of one model in a run.

        Args:
            model: identifies the model in this run, such as its digest.
            metrics: the model's statistics.

        Raises:
            Refused: `too-many-questions`.
            EnvironmentProblem: what the hospital keeps cannot be read or written.
        """
        if metrics.confounding is None:
            return metrics
        with open_record(self._site.home, f"questions/{self._task}") as record:
            number = self._known(record, f"probe {model}")
            if number is None:
                asked = record["runs"].get(self._run, {})
                if any(key.startswith("probe ") for key in asked):
                    raise self._refused("the probe has been answered for another model of this run")
                number = record["asked"]
                answer = {"probe": metrics.model_dump(), "groups": []}
                self._keep(record, f"probe {model}", number, answer)
            return Metrics.model_validate(self._read(number)["probe"])

    @property
    def _run(self) -> str:
        return self._site.state.name

    def _known(self, record: dict[str, Any], model: str) -> int | None:
        """Returns the number of a model's answer, or None if it may have a new one."""
        record.setdefault("asked", 0)
        asked: dict[str, int] = record.setdefault("runs", {}).get(self._run, {})
        if model in asked:
            return asked[model]
        if len(asked) >= self._limit:
            raise self._refused(f"{self._limit} models of this run have been scored")
        if record["asked"] >= self._site.privacy.questions:
            raise self._refused(f"{record['asked']} models have been scored on these data")
        return None

    def _refused(self, what: str) -> Refused:
        return Refused(
            "too-many-questions",
            what,
            f"hospital {self._site.name}",
            "the hospital may raise privacy.questions",
        )

    def _keep(
        self, record: dict[str, Any], model: str, number: int, answer: dict[str, Any]
    ) -> None:
        # The answer comes first: without its number, it would be written again.
        write_json(self._path(number), answer)
        record["asked"] = number + 1
        record["runs"].setdefault(self._run, {})[model] = number

    def _path(self, number: int) -> Any:
        return self._site.home / "questions" / self._task / f"{_ANSWER}-{number:06d}.json"

    def _read(self, number: int) -> dict[str, Any]:
        return read_json_object(self._path(number))

    def _answer(self, number: int, patients: str, measured: Measured) -> dict[str, Any]:
        """Builds an answer: what is new in it, and what it repeats."""
        assert measured.score is not None
        score = _rounded(measured.score.model_dump())
        given = {name for name, value in score["figures"].items() if value is not None}
        if not given <= {name for group in measured.groups for name in group.figures}:
            raise ValueError("a figure belongs to no group")
        groups = [_stated(group, score) for group in measured.groups]
        new = []
        for scored, group in zip(measured.groups, groups, strict=True):
            nearest = self._nearest(group, patients, number)
            if nearest is None:
                new.append(group.plain)
            else:
                _repeat(score, scored, nearest)
        return {"score": score, "patients": patients, "groups": new}

    def _nearest(self, group: _Group, patients: str, number: int) -> tuple[_Group, bool] | None:
        """Finds the stated group that is too near, and whether its classes are exchanged."""
        enough = self._site.smallest_group
        nearest: tuple[int, bool, _Group] | None = None
        for earlier in range(number):
            of, groups = self._load(earlier)
            for known in groups if of == patients else ():
                if known.plain["subject"] != group.plain["subject"]:
                    continue
                for exchanged in (False, True) if group.positive is not None else (False,):
                    distance = _distance(group, known, enough, exchanged=exchanged)
                    if distance < enough and (nearest is None or distance < nearest[0]):
                        nearest = (distance, exchanged, known)
        return None if nearest is None else (nearest[2], nearest[1])

    def _load(self, number: int) -> tuple[str, list[_Group]]:
        if number not in self._stated:
            plain = self._read(number)
            groups = [
                _Group(
                    group,
                    np.array(group["values"]),
                    None if group["positive"] is None else np.array(group["positive"], bool),
                )
                for group in plain["groups"]
            ]
            self._stated[number] = (plain.get("patients", ""), groups)
        return self._stated[number]


def _rounded(score: dict[str, Any]) -> dict[str, Any]:
    """Rounds figures to 3 decimals, and intervals outwards to 2.

    A bootstrap's ends have 15 digits. With the predictions known, hardly any other outcomes have
    the same ones.
    """
    figures = {
        name: None if value is None else round(value, 3) for name, value in score["figures"].items()
    }
    intervals = {
        name: [math.floor(low * 100) / 100, math.ceil(high * 100) / 100]
        for name, (low, high) in (score["interval"] or {}).items()
    }
    curves = {
        name: [[round(mean, 3), round(share, 3), patients] for mean, share, patients in curve]
        for name, curve in (score["reliability"] or {}).items()
    }
    return {
        **score,
        "figures": figures,
        "interval": intervals or None,
        "reliability": curves or None,
    }


def _stated(group: ScoredGroup, score: dict[str, Any]) -> _Group:
    """A group as it is kept, with its figures of this score."""
    ordered = group.positive is not None
    values = ranks(group.values) if ordered else np.asarray(group.values, float)
    plain = {
        "subject": group.subject,
        "figures": [score["figures"].get(name) for name in group.figures],
        "intervals": [(score["interval"] or {}).get(name) for name in group.figures],
        "curve": (score["reliability"] or {}).get(group.curve),
        "values": values.tolist(),
        "positive": group.positive.astype(int).tolist() if group.positive is not None else None,
    }
    return _Group(plain, values, group.positive)


def _distance(group: _Group, known: _Group, enough: int, *, exchanged: bool) -> int:
    """Number of patients whose predictions differ, or a lower number that is at least `enough`."""
    if len(group.values) != len(known.values):
        return enough
    if group.positive is None or known.positive is None:
        return changed_values(group.values, known.values)
    first = group.values.max() - group.values if exchanged else group.values
    positive = ~group.positive if exchanged else group.positive
    return changed_order(first, known.values, (positive, known.positive), enough)


def _repeat(score: dict[str, Any], group: ScoredGroup, nearest: tuple[_Group, bool]) -> None:
    """Puts the figures of an earlier answer into a score; none where its classes are exchanged."""
    known, exchanged = nearest
    for index, name in enumerate(group.figures):
        value = None if exchanged else known.plain["figures"][index]
        ends = None if exchanged else known.plain["intervals"][index]
        score["figures"][name] = value
        score["interval"] = _with(score["interval"], name, ends)
    if group.curve:
        curve = None if exchanged else known.plain["curve"]
        score["reliability"] = _with(score["reliability"], group.curve, curve)


def _with(values: dict[str, Any] | None, name: str, value: Any) -> dict[str, Any] | None:
    """Sets or removes an entry; None if there is none left."""
    rest = {key: kept for key, kept in (values or {}).items() if key != name}
    return rest | ({} if value is None else {name: value}) or None
