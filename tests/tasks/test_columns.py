"""Which columns of a table a job may read is the hospital's choice, and so are their ranges."""

import pytest
from pydantic import ValidationError
from tests.clinic import RELEASED, Clinic, heart, start_of
from tests.conftest import ROOT

from consortium.core.errors import ConsortiumError, Refused, UsageError
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import Privacy
from consortium.settings.base import override
from consortium.tasks.columns import propose_columns
from consortium.tasks.folders import check_folder
from consortium.tasks.registry import parse_settings, task_of
from consortium.tasks.tables import read_table

COVID = ROOT / "jobs" / "covid_detection" / "app" / "config" / "settings.json"


@pytest.fixture
def clinic(tmp_path):
    return Clinic(tmp_path, validation=12)


def code_of(clinic, settings, **privacy):
    """What the orchestrator is told about a job: nothing if it may start."""
    try:
        clinic.open(settings, **privacy)
    except ConsortiumError as refusal:
        return refusal.code
    return None


def bisect(answers, low, high):
    """The number at which the answers change."""
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (low, middle) if answers(middle) else (middle, high)
    return high


def test_the_range_of_a_job_does_not_tell_the_youngest_patients_age(clinic):
    """The attack: whether a lower bound is refused, in eight jobs."""
    youngest = min(float(row["age"]) for row in clinic.rows.values())

    def refused(low):
        return code_of(clinic, heart(f"data.numbers.age=[{low}, 120]"), columns=RELEASED)

    assert youngest > 20
    assert bisect(refused, -50.0, 100.0) == pytest.approx(0.0, abs=0.5)  # the hospital's own bound
    assert {refused(low) for low in (-1, 0)} == {None}
    assert {refused(low) for low in (1, youngest - 1, youngest + 1, 90)} == {"data-unfit"}


def test_a_patient_outside_the_hospitals_range_is_not_found_by_wider_jobs(clinic):
    clinic.rows["P001"]["age"] = "130"
    clinic.write()
    answers = {
        code_of(clinic, heart(f"data.numbers.age=[0, {high}]"), columns=RELEASED)
        for high in (121, 129, 131, 500)
    }
    assert answers == {"data-unfit"}


def test_a_value_that_a_job_leaves_out_does_not_tell_whether_anybody_has_it(clinic):
    for row in clinic.rows.values():
        row["cp"] = "1" if row["cp"] == "4" else row["cp"]  # nobody has 4
    clinic.write()
    for gone in ("3", "4"):
        kept = [value for value in RELEASED["cp"] if value != gone]
        settings = heart("data.categories=" + f'{{"cp": {kept}}}'.replace("'", '"'))
        assert code_of(clinic, settings, columns=RELEASED) == "data-unfit"
    wider = heart('data.categories={"cp": ["1", "2", "3", "4", "5"]}')
    assert code_of(clinic, wider, columns=RELEASED) is None


def test_only_columns_that_the_hospital_lists_are_read(clinic):
    for row in clinic.rows.values():
        row["hiv"] = "0"
    clinic.write()
    curious = heart('data.categories={"hiv": ["0", "1"]}')
    assert code_of(clinic, curious, columns=RELEASED) == "data-unfit"
    missing = heart('data.categories={"absent": ["0", "1"]}')
    assert code_of(clinic, missing, columns=RELEASED) == "data-unfit"
    assert code_of(clinic, heart(), columns=RELEASED) is None
    other_outcome = heart("data.outcome.column=hiv", 'data.outcome.classes={"a":["0"],"b":["1"]}')
    assert code_of(clinic, other_outcome, columns=RELEASED) == "data-unfit"


def test_without_a_list_no_job_reads_a_table(clinic):
    assert Privacy().columns == {}
    assert code_of(clinic, heart(), questions=7) == "data-unfit"
    assert code_of(clinic, heart(), columns="all") is None


def test_a_released_job_trains_as_with_all_columns(clinic):
    settings = heart()
    released = clinic.open(settings, "a", columns=RELEASED).train(start_of(settings), 0)
    everything = clinic.open(settings, "b", columns="all").train(start_of(settings), 0)
    assert all((released.tensors[name] == part).all() for name, part in everything.tensors.items())


def test_numbers_and_categories_are_not_exchanged(clinic):
    as_number = heart('data.categories={"sex":["0","1"]}', "data.numbers.cp=[0,9]")
    assert code_of(clinic, as_number, columns=RELEASED) == "data-unfit"
    as_category = {**RELEASED, "age": ["30", "31"]}
    assert code_of(clinic, heart(), columns=as_category) == "data-unfit"


def test_the_detail_stays_at_the_hospital(clinic):
    clinic.rows["P001"]["age"] = "x"
    clinic.write()
    with pytest.raises(UsageError, match="not-a-number: age in line 3 is not a number") as refusal:
        clinic.open(heart(), columns=RELEASED)
    assert refusal.value.code == "data-unfit"


def test_labels_and_sources_of_xrays_are_released_too():
    raw = read_json_object(COVID)
    settings = parse_settings(raw)
    labels = [value for values in settings.data.classes.values() for value in values]
    bound = task_of(settings).bound
    assert (
        bound(settings, {"label": labels[:2]}).data.classes.keys() == settings.data.classes.keys()
    )
    with pytest.raises(Refused, match="lacks values of label"):
        bound(settings, {"label": [*labels, "rare"]})
    with pytest.raises(Refused, match="does not list"):
        bound(settings, {})
    sourced = parse_settings(override(raw, ["data.source=ward"]))
    with pytest.raises(Refused, match="the column ward"):
        bound(sourced, {"label": labels})


@pytest.mark.parametrize(
    "columns", [{"age": [0]}, {"age": [9, 1]}, {"age": ["a", 1]}, {"sex": []}, "some"]
)
def test_a_list_that_means_nothing_is_refused(columns):
    with pytest.raises(ValidationError):
        Privacy(columns=columns)


def test_a_proposal_fits_the_data_and_does_not_tell_the_extremes(clinic):
    clinic.rows["P002"]["cp"] = "7"
    clinic.write()
    proposal = propose_columns(read_table(clinic.folder / "data", "patients.csv"))
    assert proposal.columns["age"] == [0.0, 100.0]
    assert proposal.columns["cp"] == ["1", "2", "3", "4", "7"]
    assert "cp: 7 has fewer than 5 patients" in proposal.notes
    assert proposal.columns.keys() == RELEASED.keys()
    assert Privacy(columns=proposal.columns).columns == proposal.columns


@pytest.mark.parametrize("value", ["-3.5", "0", "0.002", "10", "100", "1e9"])
def test_a_proposed_range_holds_every_number(clinic, value):
    clinic.rows["P002"]["oldpeak"] = value
    clinic.write()
    low, high = propose_columns(read_table(clinic.folder / "data", "patients.csv")).columns[
        "oldpeak"
    ]
    assert low <= float(value) <= high
    settings = heart(f"data.numbers.oldpeak=[{low}, {high}]")
    assert not [f for f in check_folder(clinic.folder / "data", settings) if f.severity == "error"]
