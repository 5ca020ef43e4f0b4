"""Draws small curves side by side, one for each hospital and one for all, on one scale.

A line is broken where a hospital missed a round; a value without neighbours is a dot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consortium.orchestration.model_selection import first_averaged
from consortium.protocol.metrics import ScoreSpec
from consortium.report.comparison import average_scores
from consortium.report.figures import spec_of, value_of
from consortium.tasks.registry import text_of_task

WIDTH, HEIGHT = 200.0, 96.0
"""Size of a panel, in its own units."""

ALL_HOSPITALS = "all hospitals"
Position = Callable[[int, float], tuple[float, float]]

_MOST_POINTS = 200  # a panel's width does not show more
_MOST_LINES = 8  # more grey lines are unreadable, and are drawn as a band


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve.

    Attributes:
        name: the hospital, or all hospitals.
        line: path of the curve; empty if no value was reported.
        end: position of the last value, or None.
        level: height of the local model's score, or None.
        description: the curve in words.
        overall: whether the curve is that of all hospitals.
    """

    name: str
    line: str
    end: tuple[float, float] | None
    level: float | None
    description: str
    overall: bool


@dataclass(frozen=True, slots=True)
class Curves:
    """Panels on one scale.

    Attributes:
        key: prefix of ids on the page.
        title: title of the drawing.
        description: how to read it.
        panels: the panels; that of all hospitals comes first, if there is one.
        band: path of the range of the hospitals' curves; empty if they are drawn as lines.
        marks: labels of the vertical scale, from the top.
        last: number of the last round.
    """

    key: str
    title: str
    description: str
    panels: list[Panel]
    band: str
    marks: list[str]
    last: int


def averaged_models(result: Mapping[str, Any]) -> int:
    """Number of the last models that the final model averages; 0 if it is not an average."""
    selection = result["settings"]["selection"]
    if selection["keep"] != "average":
        return 0
    first = first_averaged(result["settings"]["rounds"], selection["share"])
    return max(0, int(result["rounds"]) - first)


def draw_curves(
    result: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], final: Mapping[str, Any]
) -> list[Curves]:
    """Draws the federated model's headline score and the training loss, round by round.

    Args:
        result: content of `result.json`.
        rounds: lines of `rounds.jsonl`.
        final: scores of the final model.
    """
    names, spec = [row["name"] for row in result["hospitals"]], spec_of(result)
    text = text_of_task(result["settings"]["task"])
    scores: dict[str, dict[int, float]] = {name: {} for name in _with_all(names)}
    loss: dict[str, dict[int, float]] = {name: {} for name in names}
    levels = {row["name"]: value_of(row["local"], spec) for row in result["hospitals"]}
    levels[ALL_HOSPITALS] = average_scores(result["hospitals"], spec).values.get("local")
    models = [(record["round"], record["metrics"], record["score"]) for record in rounds]
    for number, metrics, score in [*models, (len(rounds), final["metrics"], final["score"])]:
        if score is not None and ALL_HOSPITALS in scores:
            scores[ALL_HOSPITALS][number] = score
        for name, reported in metrics.items():
            value = value_of(reported["validation"], spec)
            if value is not None:
                scores[name][number] = value
            if reported["loss"] is not None and number < len(rounds):
                loss[name][number + 1] = reported["loss"]
    drawn = []
    if any(scores.values()):
        drawn.append(
            _draw(
                text.key,
                f"{text.headline[0].upper()}{text.headline[1:]} of the federated model, round by"
                " round",
                "Scores on each hospital's own validation patients after each round."
                + (
                    " The dashed line is the hospital's local model."
                    if any(level is not None for level in levels.values())
                    else ""
                )
                + (
                    f" The last point is the average of the last {averaged} models."
                    if (averaged := averaged_models(result)) > 1
                    else ""
                ),
                scores,
                _top(spec, scores),
                len(rounds),
                levels,
            )
        )
    values = [value for curve in loss.values() for value in curve.values()]
    if values:
        drawn.append(
            _draw(
                "loss",
                "Training loss, round by round",
                f"Mean over the steps of a round ({text.loss}), by hospital.",
                loss,
                max(values) or 1.0,
                len(rounds),
                {},
            )
        )
    return drawn


def _top(spec: ScoreSpec, scores: Mapping[str, Mapping[int, float]]) -> float:
    """The upper bound of the headline; without a bound, the largest value."""
    bounds = [metric.high for metric in spec.metrics if metric.headline]
    known = [bound for bound in bounds if bound is not None]
    if known and len(known) == len(bounds):
        return max(known)
    return max(value for curve in scores.values() for value in curve.values()) or 1.0


def _with_all(names: list[str]) -> list[str]:
    return [ALL_HOSPITALS, *names] if len(names) > 1 else names


def _draw(
    key: str,
    title: str,
    description: str,
    curves: Mapping[str, Mapping[int, float]],
    top: float,
    last: int,
    levels: Mapping[str, float | None],
) -> Curves:
    def position(number: int, value: float) -> tuple[float, float]:
        return round(WIDTH * number / max(1, last), 1), round(HEIGHT * (1 - value / top), 1)

    stride = -(-(last + 1) // _MOST_POINTS)
    panels = []
    for name, curve in curves.items():
        level = levels.get(name)
        panels.append(
            Panel(
                name=name,
                line=_path(curve, stride, position),
                end=position(max(curve), curve[max(curve)]) if curve else None,
                level=None if level is None else position(0, level)[1],
                description=_describe(curve, key)
                + (f"; local model {level:.3f}" if level is not None else ""),
                overall=name == ALL_HOSPITALS,
            )
        )
    hospitals = {name: curve for name, curve in curves.items() if name != ALL_HOSPITALS}
    band = ""
    if len(hospitals) > _MOST_LINES:
        band = _band(list(hospitals.values()), stride, position)
        description += " The grey band is the range of all hospitals."
    elif len(hospitals) > 1:
        description += " The grey lines are the other hospitals."
    if stride > 1:
        description += f" One round in {stride} is drawn."
    marks = [f"{value:.2g}" for value in (top, top / 2, 0.0)]
    return Curves(key, title, description, panels, band, marks, last)


def _path(curve: Mapping[int, float], stride: int, position: Position) -> str:
    numbers = sorted(curve)
    kept = [*numbers[:-1:stride], *numbers[-1:]]
    drawn, before = [], None
    for index, number in enumerate(kept):
        joined = before is not None and _unbroken(curve, before, number)
        x, y = position(number, curve[number])
        drawn.append(f"{'L' if joined else 'M'}{x:g},{y:g}")
        after = kept[index + 1] if index + 1 < len(kept) else None
        if not joined and (after is None or not _unbroken(curve, number, after)):
            drawn.append("h0")  # round line ends make it a dot
        before = number
    return "".join(drawn)


def _unbroken(curve: Mapping[int, float], first: int, last: int) -> bool:
    return all(number in curve for number in range(first, last))


def _band(curves: Sequence[Mapping[int, float]], stride: int, position: Position) -> str:
    numbers = sorted({number for curve in curves for number in curve})
    kept = [*numbers[:-1:stride], *numbers[-1:]]
    lower, upper = [], []
    for number in kept:
        values = [curve[number] for curve in curves if number in curve]
        upper.append("{:g},{:g}".format(*position(number, max(values))))
        lower.append("{:g},{:g}".format(*position(number, min(values))))
    return f"M{' '.join([*upper, *reversed(lower)])}z" if kept else ""


def _describe(curve: Mapping[int, float], key: str) -> str:
    if not curve:
        return "no value reported"
    first, last = min(curve), max(curve)
    if first == last:
        return f"{curve[last]:.3f}, once"
    description = f"from {curve[first]:.3f} to {curve[last]:.3f}"
    best = (min if key == "loss" else max)(curve, key=lambda number: curve[number])
    if f"{curve[best]:.3f}" != f"{curve[last]:.3f}":
        extreme = "lowest" if key == "loss" else "highest"
        description += f", {extreme} {curve[best]:.3f} in round {best}"
    return description
