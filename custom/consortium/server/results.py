"""Writes a run's results: `rounds.jsonl`, `result.json` and the model's bundle.

`consortium.report` renders the page and the curves from the first two, in a process that holds no
models; see `consortium.server.rendering`.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consortium.core.files import clear_errors, write_json, write_text
from consortium.core.json_files import read_json_object
from consortium.models.bundle import write_bundle
from consortium.orchestration.flagging import find_flagged
from consortium.orchestration.records import ROUNDS, RoundRecord
from consortium.server.state import RunState
from consortium.settings.base import Model

if TYPE_CHECKING:
    from consortium.server.evaluations import Evaluations
    from consortium.server.run import TrainingRun

RESULT = "result.json"


def write_rounds(results: Path, records: Sequence[RoundRecord]) -> None:
    """Writes all of `rounds.jsonl`."""
    write_text(results / ROUNDS, "".join(map(_line, records)))


def append_round(results: Path, record: RoundRecord) -> None:
    """Appends a line to `rounds.jsonl`; if a kill tears it, the checkpoint still has the round."""
    path = results / ROUNDS
    with clear_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(_line(record))


def _line(record: RoundRecord) -> str:
    return json.dumps(record.to_dict(), allow_nan=False) + "\n"


def write_results(
    run: "TrainingRun", evaluations: "Evaluations", trouble: str = ""
) -> dict[str, Any]:
    """Writes the results of a run, complete or not.

    Args:
        run: up to its last closed round.
        evaluations: as far as they went.
        trouble: why the run ended early, in one line; empty if it did not.

    Returns:
        The content of `result.json`.
    """
    state = run.state
    state.run.trouble = trouble or state.run.trouble
    reason = state.run.reason()
    probe = {}
    if state.settings.probe and state.rounds_done:
        probe = {"confounding": evaluations.describe_confounding()}
    model_sha256 = _write_model(run, probe) if state.rounds_done else None
    result: dict[str, Any] = {
        "run": state.run.name,
        "job": state.run.job,
        "complete": not reason,
        "reason": reason,
        "notes": run.checkpoints.notes,
        "seed": state.settings.seed,
        "versions": _versions(),
        "hospitals": _hospital_rows(state),
        "rounds": state.rounds_done,
        "best_round": state.kept if state.rounds_done else None,
        "model_sha256": model_sha256,
        "settings": state.study.dump_settings(),
        **probe,
    }
    if state.settings.cross_site:
        result["cross_site"] = evaluations.cross_site
    flagged = find_flagged(state.run.records, _scores_of_models(state))
    result["flagged"] = [asdict(flag) for flag in flagged]
    result["final"] = {"metrics": state.run.final or {}, "score": evaluations.final_score}
    write_rounds(run.results, state.run.records)
    write_json(run.results / RESULT, result)
    return result


def add_note(results: Path, note: str) -> dict[str, Any]:
    """Adds a note to `result.json` and returns its new content."""
    result = read_json_object(results / RESULT)
    result["notes"].append(note)
    write_json(results / RESULT, result)
    return result


def _scores_of_models(state: RunState) -> list[dict[str, float]]:
    """Returns the headline score of every model that was sent, by hospital."""
    models = []
    for number in range(state.rounds_done + 1):
        scores = state.run.scores_of_model(number)
        values = {
            name: state.settings.scored.headline(score["figures"])
            for name, score in scores.items()
            if score is not None
        }
        models.append({name: value for name, value in values.items() if value is not None})
    return models


def _hospital_rows(state: RunState) -> list[dict[str, Any]]:
    federated = state.run.scores_of_model(state.kept)
    rows = []
    for name in state.study.hospitals:
        training = [record.cases[name] for record in state.run.records if name in record.cases]
        score = federated.get(name)
        local = (state.run.local or {}).get(name)
        rows.append(
            {
                "name": name,
                "cases": {
                    "training": training[-1] if training else None,
                    "validation": score["patients"] if score else None,
                },
                "local": local["validation"] if local else None,
                "federated": score,
            }
        )
    return rows


def _write_model(run: "TrainingRun", probe: Mapping[str, Any]) -> str:
    state = run.state
    # The start model is a path at the orchestrator, and nobody else's business.
    settings = state.settings.model_copy(update={"model": Model()})
    return write_bundle(
        run.results / "model",
        settings,
        run.checkpoints.kept_model(state),
        trained={
            "run": state.run.name,
            "job": state.run.job,
            "hospitals": list(state.study.hospitals),
            "round": state.kept,
            **probe,
        },
    )


def _versions() -> dict[str, str]:
    packages = ("consortium", "nvflare", "torch", "monai", "numpy")
    return {name: version(name) for name in packages} | {"python": platform.python_version()}
