"""The registry of finding codes and the source agree."""

import ast
import re
from pathlib import Path

import pytest

from consortium.core.finding_codes import FINDING_CODES, DataKind, codes_of
from consortium.core.findings import Finding, error, warning

PACKAGE = Path(__file__).parents[2] / "custom" / "consortium"
CHECKED = [path for room in ("core", "imaging", "tasks") for path in (PACKAGE / room).rglob("*.py")]


def emitted(paths):
    """The severity and code of every call of `error` and `warning` with a literal code."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("error", "warning")
                and isinstance(node.args[0], ast.Constant)
            ):
                yield node.func.id, node.args[0].value


# `consortium.core.outliers` reports these through one function that takes the code.
OUTLIERS = {("warning", f"{measure}-outlier") for measure in ("spacing", "size", "intensity")}


def test_every_code_in_the_source_is_registered_and_every_registered_code_is_in_the_source():
    registered = {(entry.severity, code) for code, entry in FINDING_CODES.items()}
    assert set(emitted(CHECKED)) | OUTLIERS == registered
    outliers = (PACKAGE / "core/outliers.py").read_text(encoding="utf-8")
    assert {("warning", code) for code in re.findall(r'"([a-z-]+-outlier)"', outliers)} == OUTLIERS


def test_a_code_that_comes_through_a_variable_is_one_of_the_outliers():
    calls = {
        path.name
        for path in CHECKED
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("error", "warning")
        and not isinstance(node.args[0], ast.Constant)
    }
    assert calls == {"outliers.py"}


@pytest.mark.parametrize(
    ("kind", "rooms"),
    [
        (DataKind.SCANS, ["tasks/segmentation", "imaging/volumes.py", "imaging/dicom_seg.py"]),
        (DataKind.XRAYS, ["tasks/classification", "imaging/radiographs.py"]),
        (DataKind.TABLES, ["tasks/tabular"]),
    ],
)
def test_the_codes_of_a_kind_of_data_hold_those_that_its_checks_report(kind, rooms):
    paths = []
    for room in rooms:
        path = PACKAGE / room
        paths += [path] if path.suffix else path.rglob("*.py")
    codes = {code for _, code in emitted(paths)}
    assert codes
    assert codes <= {each.code for each in codes_of(kind)}


def test_every_code_has_a_cause_and_advice():
    for code, entry in FINDING_CODES.items():
        assert re.fullmatch(r"[a-z][a-z-]+", code)
        assert entry.kinds
        assert entry.when
        assert not entry.when.endswith(".")
        assert entry.advice[0].isupper()
        assert entry.advice.endswith(".")


@pytest.mark.parametrize(
    ("make", "code"), [(error, "no-such-code"), (error, "empty-mask"), (warning, "missing-file")]
)
def test_a_code_that_is_not_registered_or_of_another_severity_is_refused(make, code):
    with pytest.raises(ValueError, match=f"{code} is not in consortium.core.finding_codes"):
        make(code, "file", "detail")


def test_a_registered_code_makes_a_finding():
    assert warning("empty-mask", "a", "b") == Finding("empty-mask", "warning", "a", "b")
