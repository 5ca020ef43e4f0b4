"""Renders the page of a run: one HTML file that needs no network.

It is made from `result.json` and `rounds.jsonl` alone. Always: the same inputs give the same bytes;
every text from outside is escaped; a withheld score is shown as text, never as a number; colour is
never the only sign; everything that is drawn is also there as text.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from consortium.core.plurals import plural
from consortium.imaging.pictures import Picture
from consortium.report.attendance import (
    MOST_CELLS,
    STATES,
    describe_flagged,
    describe_incidents,
    list_attendance,
)
from consortium.report.comparison import MODELS, Means, average_scores, compare
from consortium.report.confounding import describe_confounding
from consortium.report.figures import spec_of, value_of
from consortium.report.panels import HEIGHT, WIDTH, averaged_models, draw_curves
from consortium.report.reliability import SIDE, draw_reliability
from consortium.tasks.registry import parse_settings, text_of_task
from consortium.tasks.text import join

_TEMPLATE = "report.html.j2"
_MOST_NAMES = 8  # hospitals that a sentence names; the tables name all
_MOST_INCIDENTS = 400  # incidents that are listed; rounds.jsonl has all
_MOST_PICTURES = 1_000_000  # bytes, encoded, so that the page stays below 2 MB
_MATRIX_IN_PRINT = 10  # hospitals whose cross-site matrix fits on an upright sheet

Result = Mapping[str, Any]
Rounds = Sequence[Mapping[str, Any]]


def render_report(
    result: Result,
    rounds: Rounds,
    *,
    final: Mapping[str, Any],
    pictures: Sequence[Picture] = (),
) -> str:
    """Renders the page.

    Args:
        result: content of `result.json`.
        rounds: lines of `rounds.jsonl`.
        final: scores of the final model: `metrics` by hospital, and `score` over all.
        pictures: pictures of generated scans only. The first ones that fit into a page of 2 MB are
            shown.

    Returns:
        A complete HTML document.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value: f"{value:.3f}"
    environment.filters["interval"] = lambda ends: f"{ends[0]:.2f}\u2013{ends[1]:.2f}"
    settings = parse_settings(result["settings"], "result.json")
    names = [row["name"] for row in result["hospitals"]]
    plots = compare(result["hospitals"], settings.scored)
    incidents = describe_incidents(rounds)
    shown, left_out = _fit(pictures)
    return environment.get_template(_TEMPLATE).render(
        result=result,
        rounds=rounds,
        model_origin=_describe_model(result),
        training_summary=_describe_training(result, rounds),
        score_summary=_describe_scores(
            result, rounds, average_scores(result["hospitals"], settings.scored)
        ),
        models=MODELS,
        task_text=text_of_task(settings.task),
        further_meaning=_with_fixed_spaces(text_of_task(settings.task).further(settings)),
        plots=plots,
        reliability=draw_reliability(result["hospitals"]),
        side=SIDE,
        has_scores=any(group.estimates for plot in plots for group in plot.groups),
        pictures=shown,
        pictures_left_out=left_out,
        curves=draw_curves(result, rounds, final),
        width=WIDTH,
        height=HEIGHT,
        states=STATES,
        attendance=list_attendance(names, rounds),
        flagged=[describe_flagged(row) for row in result.get("flagged", [])],
        in_cells=len(rounds) <= MOST_CELLS,
        incidents=incidents[:_MOST_INCIDENTS],
        incidents_left_out=max(0, len(incidents) - _MOST_INCIDENTS),
        confounding=describe_confounding(result),
        cross_site=_cross_site(result, names),
        wide_matrix=len(names) > _MATRIX_IN_PRINT,
        digests=_digests(rounds),
        settings="\n".join(_flatten(result["settings"])),
    )


def _describe_training(result: Result, rounds: Rounds) -> list[str]:
    """Two sentences: who trained what, and on how many cases."""
    settings = parse_settings(result["settings"], "result.json")
    who = _name(result["hospitals"])
    model = text_of_task(settings.task).describe(settings)
    if not rounds:
        return [f"{who} were to train one model together: {model}.", "No round was closed."]
    cases = sum(row["cases"]["training"] or 0 for row in result["hospitals"])
    training = (
        f"It was trained for {plural(len(rounds), 'round')} on {plural(cases, 'training case')}"
    )
    if any(row.get("centralised") is not None for row in result["hospitals"]):
        training += (
            " that were not brought together. For comparison, a centralised model was trained on"
            " all of them in one place, which only a simulation can do."
        )
    else:
        training += (
            ", which stayed at the hospitals. Only model updates and the figures of this run left a"
            " hospital."
        )
    return [f"{who} trained one model together: {model}.", training]


def _with_fixed_spaces(text: str) -> Markup:
    """Escapes text and writes its non-breaking spaces as entities."""
    return Markup(escape(text, quote=False).replace("\u00a0", "&nbsp;"))


def _describe_model(result: Result) -> str:
    """The rounds after which the final model was taken."""
    if result["best_round"] is None:
        return ""
    origin = f", after {plural(result['best_round'], 'round')}"
    averaged = averaged_models(result)
    return origin + (f": the average of the last {averaged} models" if averaged > 1 else "")


def _name(hospitals: Sequence[Mapping[str, Any]]) -> str:
    names = [row["name"] for row in hospitals]
    if len(names) == 1:
        return f"The hospital {names[0]}"
    if len(names) > _MOST_NAMES:
        return f"The {len(names)} hospitals on this page"
    return f"The hospitals {join(names)}"


def _describe_scores(result: Result, rounds: Rounds, means: Means) -> list[str]:
    """The federated model's scores, and what limits them."""
    if not rounds:
        return []
    if "federated" not in means.values:
        return ["No hospital reported a score of the federated model."]
    task_text = text_of_task(result["settings"]["task"])
    sentences = [
        f"On {plural(means.patients, 'validation patient')}, who took no part in training, the"
        f" federated model reaches {task_text.mean} of {means.values['federated']:.3f}."
    ]
    if "local" in means.values:
        sentences.append(
            "The local models, which each hospital trained alone, reach"
            f" {means.values['local']:.3f}, each on its own hospital's patients."
        )
    if "centralised" in means.values:
        sentences.append(
            "The centralised model, which was trained on all cases in one place, reaches"
            f" {means.values['centralised']:.3f}."
        )
    spec = spec_of(result)
    both = [
        (value_of(row["federated"], spec), value_of(row["local"], spec))
        for row in result["hospitals"]
        if value_of(row["federated"], spec) is not None and value_of(row["local"], spec) is not None
    ]
    if len(both) > 1:
        better = sum(
            federated > local for federated, local in both if federated and local is not None
        )
        sentences.append(
            f"The federated model's mean is higher at {better} of {len(both)} hospitals."
        )
    settings = parse_settings(result["settings"], "result.json")
    if settings.needs_own_statistics:
        sentences.append(
            f"Each hospital scored with its own {task_text.own}, which never left it. The final"
            " model cannot be used without them."
        )
    if settings.selection.keep == "best":
        sentences.append(
            f"The model of round {result['best_round']} was selected on these same patients, so its"
            " score is too good. Score it on patients who had no part in this run."
        )
    return sentences


def _fit(pictures: Sequence[Picture]) -> tuple[list[dict[str, str]], int]:
    """The first pictures that fit into the page, encoded, and the number of those left out."""
    shown: list[dict[str, str]] = []
    size = 0
    for picture in pictures:
        encoded = base64.b64encode(picture.png).decode("ascii")
        size += len(encoded)
        if size > _MOST_PICTURES:
            break
        shown.append({"title": picture.title, "caption": picture.caption, "png": encoded})
    return shown, len(pictures) - len(shown)


def _cross_site(result: Result, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """For each hospital that trained: the scores of its model at every hospital, as text."""
    rows, spec = [], spec_of(result)
    for trained_at, scores in sorted(result.get("cross_site", {}).items()):
        cells = []
        for name in names:
            value = value_of(scores.get(name), spec)
            withheld = name in scores and scores[name] and value is None
            cells.append("withheld" if withheld else "\u2013" if value is None else f"{value:.2f}")
        rows.append((trained_at, cells))
    return rows


def _digests(rounds: Rounds) -> list[dict[str, Any]]:
    """The digest of the model after each round; each round starts from the model before it."""
    if not rounds:
        return []
    before = rounds[0]["base_sha256"]
    rows = [{"rounds": 0, "sha256": before, "follows": True}]
    for record in rounds:
        follows = record["base_sha256"] == before
        before = record["result_sha256"]
        rows.append({"rounds": record["round"] + 1, "sha256": before, "follows": follows})
    return rows


def _flatten(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """Settings as `KEY=VALUE` lines, the form that `--set` takes."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and key not in ("labels", "classes"):
            lines += _flatten(value, f"{above}{key}.")
            continue
        if above + key == "model.from" and value is not None:
            # The start model's folder stays with the orchestrator, for the page is passed on.
            value = PurePath(value).name
        lines.append(f"{above}{key}={json.dumps(value)}")
    return lines
