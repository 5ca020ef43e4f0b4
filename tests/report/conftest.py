"""Runs as their files describe them: two rounds of three hospitals, with a refusal and a failure,
and a run as large as the page allows.
"""

import io

import numpy as np
import pytest
from PIL import Image
from tests.conftest import JOB, ROOT

from consortium.core.json_files import read_json_object
from consortium.imaging.pictures import Picture, side_by_side
from consortium.tasks.classification.scores import classify_radiographs

NAMES = ["east", "north", "west"]
RADIOGRAPHS = ROOT / "jobs" / "covid_detection" / "app" / "config" / "settings.json"


def score(value, patients=8, interval=None):
    intervals = {"tumour": list(interval)} if interval else None
    return {
        "patients": patients,
        "figures": {"tumour": value},
        "interval": intervals,
        "withheld": None,
    }


WITHHELD = {
    "patients": None,
    "figures": None,
    "interval": None,
    "withheld": "fewer than 5 patients",
}


def reported(loss, validation):
    return {"loss": loss, "seconds": 2.0, "validation": validation}


def refusal(hospital, tensor, code, times=1):
    """What `rounds.jsonl` says of refused updates."""
    return {"hospital": hospital, "tensor": tensor, "code": code, "times": times}


def record(number, answered=NAMES, *, metrics=None, **more):
    return {
        "round": number,
        "base_sha256": f"{number:064x}",
        "asked": NAMES,
        "answered": list(answered),
        "refused": [],
        "late": [],
        "lost": [],
        "failures": {},
        "cases": dict.fromkeys(answered, 10),
        "metrics": metrics or {name: reported(0.5, score(0.25)) for name in answered},
        "score": 0.25,
        "best": True,
        "result_sha256": f"{number + 1:064x}",
        **more,
    }


@pytest.fixture
def run():
    """`render_report`'s arguments."""
    rounds = [
        record(
            0,
            metrics={"east": reported(0.9, score(0.1)), "north": reported(0.8, score(0.2))}
            | {"west": reported(None, WITHHELD)},
        ),
        record(
            1,
            ["north"],
            refused=[refusal("east", "layer.weight", "not-finite")],
            failures={"west": "missing-file"},
        ),
    ]
    result = {
        "run": "r-1",
        "job": "tumor_segmentation",
        "complete": False,
        "reason": "east is missing from round 2 (not-finite layer.weight)",
        "seed": 3,
        "versions": {"consortium": "0.1.0", "torch": "2.13.0"},
        "hospitals": [
            {
                "name": "east",
                "cases": {"training": 10, "validation": 8},
                "local": score(0.5, 8, (0.25, 0.625)),
                "federated": score(0.75, 8, (0.5, 0.875)),
                "centralised": None,
            },
            {
                "name": "north",
                "cases": {"training": 20, "validation": 24},
                "local": score(0.625, 24, (0.5, 0.75)),
                "federated": score(0.5, 24, (0.375, 0.625)),
                "centralised": None,
            },
            {
                "name": "west",
                "cases": {"training": 4, "validation": None},
                "local": WITHHELD,
                "federated": WITHHELD,
                "centralised": None,
            },
        ],
        "rounds": 2,
        "best_round": 2,
        "model_sha256": "ab" * 32,
        "settings": read_json_object(JOB / "app" / "config" / "settings.json"),
    }
    final = {
        "metrics": {"east": reported(None, score(0.75)), "north": reported(None, score(0.5, 24))}
    }
    return {"result": result, "rounds": rounds, "final": final | {"score": 0.5625}}


def large_run(run, hospitals, rounds, cross_site=False):
    """A run of many hospitals that answer, fail, are late or refused in turn."""
    names = [f"hospital-{number:02d}" for number in range(hospitals)]
    row = run["result"]["hospitals"][0]
    states = ("answered", "refused", "answered", "late", "lost")
    records = []
    for number in range(rounds):
        state = {name: states[(number + k) % len(states)] for k, name in enumerate(names)}
        records.append(
            record(
                number,
                [name for name in names if state[name] == "answered"],
                metrics={
                    name: reported(1 / (1 + number + k), score((number + k) % 100 / 100))
                    for k, name in enumerate(names)
                },
                refused=[
                    refusal(name, f"model.{number}.{name}", "not-finite")
                    for name in names
                    if state[name] == "refused"
                ],
                late=[name for name in names if state[name] == "late"],
                lost=[name for name in names if state[name] == "lost"],
            )
            | {"asked": names}
        )
    shared = score(0.75, 8, (0.5, 0.875))
    result = run["result"] | {
        "hospitals": [row | {"name": name, "centralised": shared} for name in names],
        "rounds": rounds,
        "best_round": rounds,
    }
    if cross_site:
        result["cross_site"] = {name: dict.fromkeys(names, shared) for name in names}
    final = {"metrics": {name: reported(None, shared) for name in names}, "score": 0.75}
    return {"result": result, "rounds": records, "final": final}


def picture(hospital, number=0, size=96):
    """A picture of noise, which a PNG compresses no better than a generated scan."""
    scan = np.random.default_rng(number).normal(100, 20, (size, size))
    truth, predicted = np.zeros((2, size, size), bool)
    truth[20:50, 20:50] = predicted[25:55, 25:55] = True
    return Picture(
        hospital=hospital,
        title=f"{hospital}, scan {number}",
        caption="The true outline is blue.",
        png=side_by_side(scan, truth, predicted),
    )


def open_picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


KINDS = ("COVID-19", "pneumonia", "normal")


def radiograph_score(counts, bias, seed=0):
    """The score of made-up probabilities, biased towards the right class."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(3), counts)
    odds = np.exp(generator.normal(size=(len(truth), 3)) + bias * np.eye(3)[truth])
    patients = [str(number) for number in range(len(truth))]
    shares = odds / odds.sum(1, keepdims=True)
    return classify_radiographs(shares, truth, patients, KINDS, 5, specificity=0.9)[1].model_dump()


def radiograph_run(run):
    """The usual run with scores of X-rays: of all classes, of two, and none."""
    counts = {"east": (8, 40, 52), "north": (3, 30, 30), "west": (4, 4, 0)}
    federated = {name: radiograph_score(of, 2.0) for name, of in counts.items()}
    result = run["result"] | {"job": "covid_detection", "settings": read_json_object(RADIOGRAPHS)}
    result["hospitals"] = [
        row
        | {
            "federated": federated[row["name"]],
            "local": radiograph_score(counts[row["name"]], 1.0, 1),
        }
        for row in result["hospitals"]
    ]
    rounds = [
        record
        | {
            "metrics": {name: reported(0.5, federated[name]) for name in record["metrics"]},
            "score": 0.5,
        }
        for record in run["rounds"]
    ]
    final = {
        "metrics": {name: reported(None, score) for name, score in federated.items()},
        "score": 0.75,
    }
    return {"result": result, "rounds": rounds, "final": final}
