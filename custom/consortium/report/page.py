"""The page of a run: one HTML file that needs no network, made from what `result.json` and
`rounds.jsonl` say and from nothing else.

What always holds: the same inputs give the same bytes; every text from outside is escaped; what a
hospital withheld is said in words and never shown as a number; colour is never the only sign.
"""  # noqa: D205

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_STATES = {
    "answered": "in the aggregate",
    "refused": "refused",
    "late": "too late",
    "failed": "said it failed",
    "lost": "no answer",
}
_TEMPLATE = "report.html.j2"
_PANEL = (200.0, 96.0)  # width and height of a small curve, in units of its drawing
_MOST_CELLS = 40  # rounds up to which a sign fits into a round's cell

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of the comparison: one structure at one hospital."""

    hospital: str
    first: bool  # of its hospital's rows
    span: int
    training: str
    validation: str
    structure: str
    alone: float | None
    shared: float | None
    note: str


@dataclass(frozen=True, slots=True)
class _Panel:
    """A small curve: what is drawn, and the same in words."""

    name: str
    points: str
    dots: list[tuple[float, float]]
    level: float | None
    told: str
    main: bool


@dataclass(frozen=True, slots=True)
class _Curves:
    """Small curves on one scale."""

    key: str
    title: str
    told: str
    panels: list[_Panel]
    top: str
    bottom: str
    last: int


@dataclass(frozen=True, slots=True)
class _Span:
    """Rounds in a row with the same state of one hospital; `start` and `width` in percent."""

    state: str
    start: float
    width: float
    told: str


def render_report(
    result: Result,
    rounds: Sequence[Mapping[str, Any]],
    *,
    final: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Renders the page.

    Args:
        result: content of `result.json`.
        rounds: lines of `rounds.jsonl`.
        final: scores of the last model: `metrics` by hospital, and `score` over all.
        pictures: each with `title`, `caption` and `png` (bytes), of generated scans only.

    Returns:
        A whole HTML document.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["dice"] = lambda value: f"{value:.3f}"
    lines = _compare(result["hospitals"])
    compared = _compare_all(result["hospitals"])
    return environment.get_template(_TEMPLATE).render(
        result=result,
        lines=lines,
        several=any(line.span > 1 for line in lines),
        asked_alone=any(row["alone"] is not None for row in result["hospitals"]),
        summary=_summarise(result, rounds, compared),
        curves=_draw_curves(result, rounds, final),
        panel=_PANEL,
        states=_STATES,
        attendance=_attendance(result, rounds),
        signs=len(rounds) <= _MOST_CELLS,
        incidents=_incidents(rounds),
        cross_site=_cross_site(result),
        pictures=[
            {**picture, "png": base64.b64encode(picture["png"]).decode("ascii")}
            for picture in pictures
        ],
        rounds=rounds,
        settings="\n".join(_flatten(result["settings"])),
    )


def _compare(hospitals: Sequence[Mapping[str, Any]]) -> list[_Line]:
    lines = []
    for row in hospitals:
        alone, shared = row["alone"], row["shared"]
        told = [score["dice"] for score in (alone, shared) if score and score["dice"]]
        structures = list(told[0]) if told else [""]
        for number, structure in enumerate(structures):
            lines.append(
                _Line(
                    hospital=row["name"],
                    first=number == 0,
                    span=len(structures),
                    training=_count(row["cases"]["training"]),
                    validation=_count(row["cases"]["validation"]),
                    structure=structure,
                    alone=_value(alone, structure),
                    shared=_value(shared, structure),
                    note=_why_nothing(alone, shared),
                )
            )
    return lines


def _value(score: Mapping[str, Any] | None, structure: str) -> float | None:
    return score["dice"].get(structure) if score and score["dice"] else None


def _why_nothing(alone: Mapping[str, Any] | None, shared: Mapping[str, Any] | None) -> str:
    for score in (shared, alone):
        if score and score["withheld"]:
            return f"withheld by the hospital: {score['withheld']}"
    return "" if shared else "not scored"


def _count(number: int | None) -> str:
    return "\u2013" if number is None else str(number)


def _mean(dice: Mapping[str, float]) -> float:
    return sum(dice.values()) / len(dice)


def _compare_all(hospitals: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Means over the patients of the hospitals that said something; alone where all of them did."""
    told = [row for row in hospitals if row["shared"] and row["shared"]["dice"]]
    patients = sum(row["shared"]["patients"] for row in told)
    means: dict[str, float | int | None] = {"patients": patients, "alone": None, "shared": None}
    for which in ("alone", "shared"):
        scores = [row[which] for row in told]
        if told and all(score and score["dice"] for score in scores):
            weighted = sum(_mean(score["dice"]) * score["patients"] for score in scores)
            means[which] = weighted / sum(score["patients"] for score in scores)
    return means


def _summarise(
    result: Result, rounds: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]
) -> list[str]:
    names = [row["name"] for row in result["hospitals"]]
    cases = sum(row["cases"]["training"] or 0 for row in result["hospitals"])
    who = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    trained = (
        f"The hospitals {who} trained one model together over {_plural(len(rounds), 'round')}, on"
        f" {_plural(cases, 'training case')} that stayed where they were; only changes of the"
        " model and the figures on this page left a hospital."
    )
    if not rounds:
        return [f"The hospitals {who} were to train one model together; no round was closed."]
    if compared["shared"] is None:
        return [trained, "No hospital let out a score of the shared model."]
    scored = (
        f"On {_plural(compared['patients'], 'validation patient')}, who took no part in training,"
        f" the shared model reaches a mean Dice of {compared['shared']:.3f}"
    )
    if compared["alone"] is not None:
        scored += (
            f"; models that the hospitals trained alone reach {compared['alone']:.3f} on the same"
            " patients, each at home"
        )
    sentences = [trained, f"{scored}."]
    settings = result["settings"]
    if settings["update"]["buffers"] == "local" and settings["network"]["normalisation"] == "batch":
        sentences.append(
            "Each hospital scored with its own batch-norm statistics, which never left it; the kept"
            " model is of no use without them."
        )
    if result["settings"]["selection"]["keep"] == "best":
        sentences.append(
            f"The model of round {result['best_round']} was chosen on these very patients, so its"
            " score is too good; score it on patients who had no part in this run."
        )
    return sentences


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _draw_curves(
    result: Result, rounds: Sequence[Mapping[str, Any]], final: Mapping[str, Any]
) -> list[_Curves]:
    """Dice of the shared model and training loss, round by round."""
    dice: dict[str, dict[int, float]] = {"all hospitals": {}}
    loss: dict[str, dict[int, float]] = {}
    levels: dict[str, float] = {}
    for row in result["hospitals"]:
        dice[row["name"]], loss[row["name"]] = {}, {}
        if row["alone"] and row["alone"]["dice"]:
            levels[row["name"]] = _mean(row["alone"]["dice"])
    models = [(record["round"], record["metrics"], record["score"]) for record in rounds]
    for number, metrics, score in [*models, (len(rounds), final["metrics"], final["score"])]:
        if score is not None:
            dice["all hospitals"][number] = score
        for name, said in metrics.items():
            validation = said["validation"]
            if validation and validation["dice"]:
                dice[name][number] = _mean(validation["dice"])
            if said["loss"] is not None:
                loss[name][number + 1] = said["loss"]
    drawn = [
        _draw(
            "dice",
            "Dice of the shared model, round by round",
            "Each model on each hospital's own validation patients, by the number of rounds behind"
            " it; the dashed line is the model that the hospital trained alone, the grey lines are"
            " the other hospitals.",
            dice,
            (0.0, 1.0),
            len(rounds),
            levels,
        )
    ]
    values = [value for curve in loss.values() for value in curve.values()]
    if values:
        drawn.append(
            _draw(
                "loss",
                "Training loss, round by round",
                "Mean over the steps of a round (Dice loss plus cross-entropy), by hospital.",
                loss,
                (0.0, max(values) or 1.0),
                len(rounds),
                {},
            )
        )
    return drawn


def _draw(
    key: str,
    title: str,
    told: str,
    curves: Mapping[str, Mapping[int, float]],
    scale: tuple[float, float],
    last: int,
    levels: Mapping[str, float],
) -> _Curves:
    def height(value: float) -> float:
        return round(_PANEL[1] * (1 - (value - scale[0]) / (scale[1] - scale[0])), 1)

    panels = []
    for number, (name, curve) in enumerate(curves.items()):
        points = [
            (round(_PANEL[0] * at / max(1, last), 1), height(value)) for at, value in curve.items()
        ]
        words = "nothing was let out"
        if curve:
            ends = [curve[min(curve)], curve[max(curve)]]
            words = f"from {ends[0]:.3f} to {ends[1]:.3f}"
        panels.append(
            _Panel(
                name=name,
                points=" ".join(f"{x:g},{y:g}" for x, y in points),
                dots=points[-1:],
                level=height(levels[name]) if name in levels else None,
                told=words + (f"; alone {levels[name]:.3f}" if name in levels else ""),
                main=number == 0 and key == "dice",
            )
        )
    return _Curves(key, title, told, panels, f"{scale[1]:.3g}", f"{scale[0]:.3g}", last)


def _state(record: Mapping[str, Any], hospital: str) -> tuple[str, str]:
    """What became of a hospital in a round, and its code."""
    if hospital in record["answered"]:
        return "answered", ""
    if hospital in record["late"]:
        return "late", ""
    for refusal in record["refused"]:
        if refusal["hospital"] == hospital:
            return "refused", refusal["code"]
    if hospital in record["failures"]:
        return "failed", record["failures"][hospital]
    return "lost", ""


def _attendance(
    result: Result, rounds: Sequence[Mapping[str, Any]]
) -> list[tuple[str, int, list[_Span]]]:
    """By hospital: rounds it is in, and its states as spans of equal rounds."""
    rows = []
    width = 100 / max(1, len(rounds))
    for row in result["hospitals"]:
        states = [_state(record, row["name"])[0] for record in rounds]
        spans, at = [], 0
        for state, group in groupby(states):
            length = len(list(group))
            # One by one where a sign is drawn into each cell.
            step = 1 if len(rounds) <= _MOST_CELLS else length
            for start in range(at, at + length, step):
                numbers = (
                    f"round {start + 1}" if step == 1 else f"rounds {start + 1} to {at + step}"
                )
                spans.append(
                    _Span(
                        state,
                        round(start * width, 3),
                        round(step * width, 3),
                        f"{numbers}: {_STATES[state]}",
                    )
                )
            at += length
        rows.append((row["name"], states.count("answered"), spans))
    return rows


def _incidents(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All that was not in an aggregate; equal ones in a row are joined."""
    found: list[dict[str, Any]] = []
    for record in rounds:
        tensors = {refusal["hospital"]: refusal["tensor"] for refusal in record["refused"]}
        refused_beside = [
            refusal for refusal in record["refused"] if refusal["hospital"] in record["answered"]
        ]
        entries = [
            (hospital, *_state(record, hospital), tensors.get(hospital, ""))
            for hospital in record["asked"]
            if hospital not in record["answered"]
        ]
        entries += [(said["hospital"], "refused", said["code"], "") for said in refused_beside]
        for hospital, state, code, tensor in entries:
            same = {"hospital": hospital, "state": state, "code": code, "tensor": tensor}
            before = next((old for old in reversed(found) if old["hospital"] == hospital), None)
            if before and before["last"] == record["round"] and same.items() <= before.items():
                before["last"] = record["round"] + 1
            else:
                found.append({**same, "first": record["round"] + 1, "last": record["round"] + 1})
    return found


def _flatten(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """Settings as `KEY=VALUE` lines, the form in which they are set."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and key != "labels":
            lines += _flatten(value, f"{above}{key}.")
        else:
            lines.append(f"{above}{key}={json.dumps(value)}")
    return lines


def _cross_site(result: Result) -> list[tuple[str, list[str]]]:
    """By hospital that trained: the score of its model at every hospital, as text."""
    names = [row["name"] for row in result["hospitals"]]
    rows = []
    for trained_at, scores in sorted(result.get("cross_site", {}).items()):
        cells = []
        for name in names:
            score = scores.get(name)
            if score is None:
                cells.append("\u2013")
            else:
                cells.append(f"{_mean(score['dice']):.3f}" if score["dice"] else "withheld")
        rows.append((trained_at, cells))
    return rows
