"""Small curves side by side, one a hospital and one for all, on one scale.

A line is broken where a hospital was not in a round; a value that stands alone is a dot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consortium.orchestration.model_selection import first_averaged
from consortium.protocol.metrics import ScoreSpec
from consortium.report.comparison import pool
from consortium.report.figures import spec_of, value_of
from consortium.tasks.registry import text_of_task

WIDTH, HEIGHT = 200.0, 96.0
"""Of a panel, in units of its drawing."""

TOGETHER = "all hospitals"
Place = Callable[[int, float], tuple[float, float]]

_MOST_POINTS = 200  # more than that a panel's width does not show
_MOST_LINES = 8  # more grey lines than that are a thicket, and are drawn as a band


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve.

    Attributes:
        name: whose it is.
        line: path of the curve; empty where nothing was let out.
        end: place of the last value, or None.
        level: height of the model trained alone, or None.
        told: the curve in words.
        together: whether it is that of all hospitals.
    """

    name: str
    line: str
    end: tuple[float, float] | None
    level: float | None
    told: str
    together: bool


@dataclass(frozen=True, slots=True)
class Curves:
    """Panels on one scale.

    Attributes:
        key: for the ids of the page.
        title: what is drawn.
        told: how to read it.
        panels: all hospitals together first, where there is such a curve.
        band: path of the range of the hospitals' curves; empty where they are drawn as lines.
        marks: of the vertical scale, from the top.
        last: the largest round.
    """

    key: str
    title: str
    told: str
    panels: list[Panel]
    band: str
    marks: list[str]
    last: int


def averaged_models(result: Mapping[str, Any]) -> int:
    """How many of the last models the model is the mean of that the run leaves; 0 for none."""
    selection = result["settings"]["selection"]
    if selection["keep"] != "average":
        return 0
    first = first_averaged(result["settings"]["rounds"], selection["share"])
    return max(0, int(result["rounds"]) - first)


def draw_curves(
    result: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], final: Mapping[str, Any]
) -> list[Curves]:
    """Headline score of the shared model and training loss, round by round.

    Args:
        result: content of `result.json`.
        rounds: lines of `rounds.jsonl`.
        final: scores of the last model.
    """
    names, spec = [row["name"] for row in result["hospitals"]], spec_of(result)
    words = text_of_task(result["settings"]["task"])
    scores: dict[str, dict[int, float]] = {name: {} for name in _with_all(names)}
    loss: dict[str, dict[int, float]] = {name: {} for name in names}
    levels = {row["name"]: value_of(row["local"], spec) for row in result["hospitals"]}
    levels[TOGETHER] = pool(result["hospitals"], spec).values.get("local")
    models = [(record["round"], record["metrics"], record["score"]) for record in rounds]
    for number, metrics, score in [*models, (len(rounds), final["metrics"], final["score"])]:
        if score is not None and TOGETHER in scores:
            scores[TOGETHER][number] = score
        for name, said in metrics.items():
            value = value_of(said["validation"], spec)
            if value is not None:
                scores[name][number] = value
            if said["loss"] is not None and number < len(rounds):
                loss[name][number + 1] = said["loss"]
    drawn = []
    if any(scores.values()):
        drawn.append(
            _draw(
                words.key,
                f"{words.headline[0].upper()}{words.headline[1:]} of the shared model, round by"
                " round",
                "The model on each hospital's own validation patients, by the number of rounds"
                " behind it."
                + (
                    " The dashed line is the model that the hospital trained alone."
                    if any(level is not None for level in levels.values())
                    else ""
                )
                + (
                    f" The last point is the mean of the last {averaged} models."
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
                f"Mean over the steps of a round ({words.loss}), by hospital.",
                loss,
                max(values) or 1.0,
                len(rounds),
                {},
            )
        )
    return drawn


def _top(spec: ScoreSpec, scores: Mapping[str, Mapping[int, float]]) -> float:
    """The largest possible headline; the largest there is where there is no bound."""
    bounds = [metric.high for metric in spec.metrics if metric.headline]
    known = [bound for bound in bounds if bound is not None]
    if known and len(known) == len(bounds):
        return max(known)
    return max(value for curve in scores.values() for value in curve.values()) or 1.0


def _with_all(names: list[str]) -> list[str]:
    return [TOGETHER, *names] if len(names) > 1 else names


def _draw(
    key: str,
    title: str,
    told: str,
    curves: Mapping[str, Mapping[int, float]],
    top: float,
    last: int,
    levels: Mapping[str, float | None],
) -> Curves:
    def place(at: int, value: float) -> tuple[float, float]:
        return round(WIDTH * at / max(1, last), 1), round(HEIGHT * (1 - value / top), 1)

    stride = -(-(last + 1) // _MOST_POINTS)
    panels = []
    for name, curve in curves.items():
        level = levels.get(name)
        panels.append(
            Panel(
                name=name,
                line=_path(curve, stride, place),
                end=place(max(curve), curve[max(curve)]) if curve else None,
                level=None if level is None else place(0, level)[1],
                told=_tell(curve, key) + (f"; alone {level:.3f}" if level is not None else ""),
                together=name == TOGETHER,
            )
        )
    hospitals = {name: curve for name, curve in curves.items() if name != TOGETHER}
    band = ""
    if len(hospitals) > _MOST_LINES:
        band = _band(list(hospitals.values()), stride, place)
        told += " The grey band is the range of all hospitals."
    elif len(hospitals) > 1:
        told += " The grey lines are the other hospitals."
    if stride > 1:
        told += f" One round in {stride} is drawn."
    marks = [f"{value:.2g}" for value in (top, top / 2, 0.0)]
    return Curves(key, title, told, panels, band, marks, last)


def _path(curve: Mapping[int, float], stride: int, place: Place) -> str:
    numbers = sorted(curve)
    kept = [*numbers[:-1:stride], *numbers[-1:]]
    drawn, before = [], None
    for position, number in enumerate(kept):
        joined = before is not None and _unbroken(curve, before, number)
        x, y = place(number, curve[number])
        drawn.append(f"{'L' if joined else 'M'}{x:g},{y:g}")
        after = kept[position + 1] if position + 1 < len(kept) else None
        if not joined and (after is None or not _unbroken(curve, number, after)):
            drawn.append("h0")  # round line ends make it a dot
        before = number
    return "".join(drawn)


def _unbroken(curve: Mapping[int, float], first: int, last: int) -> bool:
    return all(number in curve for number in range(first, last))


def _band(curves: Sequence[Mapping[int, float]], stride: int, place: Place) -> str:
    numbers = sorted({number for curve in curves for number in curve})
    kept = [*numbers[:-1:stride], *numbers[-1:]]
    lower, upper = [], []
    for number in kept:
        values = [curve[number] for curve in curves if number in curve]
        upper.append("{:g},{:g}".format(*place(number, max(values))))
        lower.append("{:g},{:g}".format(*place(number, min(values))))
    return f"M{' '.join([*upper, *reversed(lower)])}z" if kept else ""


def _tell(curve: Mapping[int, float], key: str) -> str:
    if not curve:
        return "nothing was let out"
    first, last = min(curve), max(curve)
    if first == last:
        return f"{curve[last]:.3f}, once"
    words = f"from {curve[first]:.3f} to {curve[last]:.3f}"
    best = (min if key == "loss" else max)(curve, key=lambda number: curve[number])
    if f"{curve[best]:.3f}" != f"{curve[last]:.3f}":
        extreme = "lowest" if key == "loss" else "highest"
        words += f", {extreme} {curve[best]:.3f} in round {best}"
    return words
