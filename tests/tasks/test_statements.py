"""No two statements of a hospital can be subtracted to fewer patients than its smallest group."""

import numpy as np
import pytest
from tests.clinic import Clinic, found, heart, patient_between, stated_means

from consortium.core.errors import ConsortiumError, EnvironmentProblem, Refused
from consortium.core.site_policy import Site
from consortium.tasks.statements import STATEMENTS, Statements, settle_validation


@pytest.fixture
def site(tmp_path):
    return Site("north", tmp_path / "data", tmp_path / "state", smallest_group=5)


def ages(numbers):
    return {"age": {f"P{number}": str(40 + number % 9) for number in numbers}}


def test_a_column_that_one_patient_lacks_gives_nobody_away(tmp_path):
    """The attack: two jobs, the second of which reads a column that one more patient lacks."""
    clinic = Clinic(tmp_path, validation=12)
    for patient, column in (("P003", "fbs"), ("P007", "exang")):
        clinic.rows[patient][column] = "?"
    clinic.write()
    without = {
        name: heart(f'data.categories={{"{name}": ["0", "1"]}}') for name in ("sex", "fbs", "exang")
    }
    stated, known, codes = [], set(), set()
    for name, settings in without.items():
        try:
            stated.append(stated_means(clinic.open(settings, name), settings))
        except ConsortiumError as refusal:
            codes.add(refusal.code)
    for first in stated:
        for second in stated:
            known.update(found(clinic, patient_between(first, second, heart())))
    assert (known, codes, len(stated)) == (set(), {"statement-too-close"}, 1)


def test_one_patient_more_or_corrected_between_two_jobs_is_not_told(tmp_path):
    clinic = Clinic(tmp_path, validation=12)
    settings = heart()
    cases, mean = stated_means(clinic.open(settings, "first"), settings)
    clinic.rows["P900"] = {**clinic.rows["P000"], "age": "77"}
    clinic.write()
    again, same = stated_means(clinic.open(settings, "second"), settings)
    assert (again, np.array_equal(same, mean)) == (cases, True)  # the new patient waits
    clinic.rows["P001"]["age"] = "30"
    clinic.write()
    with pytest.raises(Refused) as refusal:
        clinic.open(settings, "third")
    assert refusal.value.code == "statement-too-close"
    assert "age" not in str(refusal.value)
    for number in range(901, 905):
        clinic.rows[f"P{number}"] = clinic.rows["P000"]
    clinic.write()
    more, other = stated_means(clinic.open(settings, "fourth"), settings)
    assert more == cases + 5
    assert not np.array_equal(other, mean)


def test_new_patients_wait_until_they_are_a_group(site):
    statements = Statements(site, "tabular")
    first = statements.settle("training", ages(range(20)))
    assert first == {f"P{number}" for number in range(20)}
    assert statements.settle("training", ages(range(24))) == first
    assert len(statements.settle("training", ages(range(25)))) == 25


def test_patients_who_left_are_refused_against_every_earlier_statement(site):
    statements = Statements(site, "tabular")
    statements.settle("training", ages(range(20)))
    statements.settle("training", ages(range(30)))
    with pytest.raises(Refused) as refusal:
        statements.settle("training", ages(range(19)))  # far from the last one, near the first
    assert refusal.value.code == "statement-too-close"
    assert len(statements.settle("training", ages(range(15)))) == 15
    assert len(statements.settle("validation", ages(range(19)))) == 19  # another subject


def test_a_class_that_differs_by_one_patient_is_not_counted_whatever_its_name(site):
    patients = [f"P{number}" for number in range(20)]

    def withheld(first):
        members = {f"P{number}" for number in first}
        return settle_validation(site, "tabular", patients, [members, {*patients} - members])[1]

    assert withheld(range(10)) is None
    assert withheld(range(10, 20)) is None  # the same classes, exchanged
    assert withheld(range(9)).withheld == "fewer than 5 patients changed"
    assert withheld(range(5)) is None


def test_a_damaged_record_is_refused_and_not_started_afresh(site):
    Statements(site, "tabular").settle("training", ages(range(20)))
    (site.home / f"{STATEMENTS}.json").write_text("{")
    with pytest.raises(EnvironmentProblem, match="damaged-record"):
        Statements(site, "tabular").settle("training", ages(range(20)))
    assert (site.home / f"{STATEMENTS}.json").read_text() == "{"


def test_neither_ids_nor_values_are_kept_in_clear(site):
    Statements(site, "tabular").settle("training", {"age": {"Jane Doe": "63.125"}})
    kept = (site.home / f"{STATEMENTS}.json").read_text()
    assert "Doe" not in kept
    assert "63.125" not in kept
