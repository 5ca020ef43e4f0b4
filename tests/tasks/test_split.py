"""The split is the hospital's: no two jobs differ by the patients on a side."""

import numpy as np
import pytest
from tests.clinic import Clinic, found, heart, patient_between, stated_means

from consortium.core.errors import ConsortiumError, Refused
from consortium.core.site_policy import Site
from consortium.tasks.split import SPLIT_RECORD, SiteSplit, hash_fraction, validation_patients


@pytest.fixture
def site(tmp_path):
    return Site("north", tmp_path / "data", tmp_path / "state")


def names(count):
    return [f"P{number}" for number in range(count)]


def test_two_jobs_whose_fractions_differ_by_one_patient_give_nobody_away(tmp_path):
    """The attack: the column means of the first round, of jobs that move one patient each."""
    clinic = Clinic(tmp_path)
    stated, known, codes = [], set(), set()
    for number, fraction in enumerate(np.arange(0.25, 0.45, 0.004).round(4).tolist()):
        settings = heart(f"data.validation_fraction={fraction}")
        try:
            stated.append(stated_means(clinic.open(settings, f"job-{number}"), settings))
        except ConsortiumError as refusal:
            codes.add(refusal.code)
    for first in stated:
        for second in stated:
            known.update(found(clinic, patient_between(first, second, heart())))
    assert (known, codes, len(stated)) == (set(), {"other-split"}, 1)


def test_the_first_job_fixes_the_split_and_new_patients_follow_its_rule(site):
    first = SiteSplit(site, "tabular")(names(40), (), 0.3)
    assert first == validation_patients(names(40), (), 0.3)
    later = SiteSplit(site, "tabular")(names(80), (), 0.3)
    assert later & {*names(40)} == first
    assert later - first == {p for p in names(80)[40:] if hash_fraction(p) < 0.3}
    assert SiteSplit(site, "segmentation")(names(40), (), 0.1) != first  # other data


def test_another_fraction_is_refused_until_the_hospital_resets_the_split(site):
    SiteSplit(site, "tabular")(names(40), (), 0.3)
    with pytest.raises(Refused) as refusal:
        SiteSplit(site, "tabular")(names(41), (), 0.31)
    assert refusal.value.code == "other-split"
    (site.home / f"{SPLIT_RECORD}.json").unlink()
    assert SiteSplit(site, "tabular")(names(40), (), 0.5) == validation_patients(names(40), (), 0.5)


def test_a_patient_who_had_to_change_sides_keeps_it_when_others_come(site):
    few = sorted(names(40), key=hash_fraction)[20:23]
    first = SiteSplit(site, "tabular")(few, (), 0.1)
    assert first == {few[0]}  # nobody is below the fraction, and somebody must validate
    assert few[0] in SiteSplit(site, "tabular")(names(40), (), 0.1)


def test_other_patients_are_another_data_set_and_the_hospitals_own_list_wins(site):
    SiteSplit(site, "tabular")(names(40), (), 0.3)
    others = [f"Q{number}" for number in range(40)]
    assert SiteSplit(site, "tabular")(others, (), 0.5) == validation_patients(others, (), 0.5)
    assert SiteSplit(site, "tabular")(names(40), ["P1"], 0.9) == {"P1"}


def test_ids_are_kept_as_hashes_alone(site):
    SiteSplit(site, "tabular")(["Jane Doe", "John Doe"], (), 0.5)
    assert b"Doe" not in b"".join(p.read_bytes() for p in site.home.iterdir())
