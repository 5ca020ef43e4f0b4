"""A run as its files say it: two rounds of three hospitals, with a refusal and a failure."""

import pytest
from tests.conftest import JOB

from consortium.settings import read_json_object

NAMES = ["east", "north", "west"]


def score(value, patients=8):
    return {"patients": patients, "dice": {"tumour": value}, "withheld": None}


WITHHELD = {"patients": None, "dice": None, "withheld": "fewer than 5 patients"}


def said(loss, validation):
    return {"loss": loss, "seconds": 2.0, "validation": validation}


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
        "metrics": metrics or {name: said(0.5, score(0.25)) for name in answered},
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
            metrics={"east": said(0.9, score(0.1)), "north": said(0.8, score(0.2))}
            | {"west": said(None, WITHHELD)},
        ),
        record(
            1,
            ["north"],
            refused=[{"hospital": "east", "tensor": "layer.weight", "code": "not-finite"}],
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
                "alone": score(0.5),
                "shared": score(0.75),
            },
            {
                "name": "north",
                "cases": {"training": 20, "validation": 24},
                "alone": score(0.625, 24),
                "shared": score(0.5, 24),
            },
            {
                "name": "west",
                "cases": {"training": 4, "validation": None},
                "alone": WITHHELD,
                "shared": WITHHELD,
            },
        ],
        "rounds": 2,
        "best_round": 2,
        "model_sha256": "ab" * 32,
        "settings": read_json_object(JOB / "app" / "config" / "settings.json"),
    }
    final = {"metrics": {"east": said(None, score(0.75)), "north": said(None, score(0.5, 24))}}
    return {"result": result, "rounds": rounds, "final": final | {"score": 0.5625}}
