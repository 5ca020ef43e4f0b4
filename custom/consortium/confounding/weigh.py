"""What is made of all that hospitals told for the provenance probe."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from consortium.confounding.moments import Group, Groups
from consortium.confounding.probe import Told, cramers_v, hospital_told, judge, lean
from consortium.confounding.statement import Statement


def weigh(statements: Mapping[str, Statement], labels: Sequence[str]) -> dict[str, Any]:
    """What all hospitals' words say of a model, as JSON values.

    Args:
        statements: by hospital; each `fits`.
        labels: of the job, in the order of the scores.

    Returns:
        `verdict` and `reason` (see `judge`); `mix`, Cramer's V of hospital and label in training;
        `lean`, `features` and `surface` (see `Lean` and `Told`), each null where it cannot be
        estimated.
    """
    shares = {name: told.shares for name, told in statements.items()}
    leaning = lean(_groups(statements, "scores"), shares, labels)
    features = hospital_told(_groups(statements, "features"))
    surface = hospital_told(_groups(statements, "surface"))
    found = judge(leaning, shares, surface)
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "mix": cramers_v(shares),
        "lean": asdict(leaning) | {"labels": list(leaning.labels)} if leaning else None,
        "features": _plain(features),
        "surface": _plain(surface),
    }


def _plain(told: Told | None) -> dict[str, Any] | None:
    return asdict(told) if told is not None else None


def _groups(statements: Mapping[str, Statement], kind: str) -> Groups:
    """Those of one size: a hospital that lets out fewer dimensions than others is left out."""
    every = {
        Group(name, label): told.moments()
        for name, statement in statements.items()
        for label, told in getattr(statement, kind).items()
    }
    most = max((len(told.mean) for told in every.values()), default=0)
    return {group: told for group, told in every.items() if len(told.mean) == most}
