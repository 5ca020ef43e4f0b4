"""The protocol of the accuracy benchmark: folds, records, tables. No test uses real scans."""

import json

import pytest
from scripts.benchmarks import accuracy, records, variants
from scripts.benchmarks.lgg import choose, deal, find_data, read_folds

from consortium.core.errors import Incomplete, Refused, UsageError
from consortium.tasks.folders import hospital_folders
from consortium.tasks.segmentation.datalist import read_datalist


def test_the_committed_folds_are_dealt_by_the_rule_and_hold_every_patient_once():
    folds = read_folds()
    patients = {}
    for fold in folds:
        for name, chosen in fold.items():
            patients.setdefault(name, []).extend(chosen)
    assert {name: len(chosen) for name, chosen in patients.items()} == {
        "case_western": 10,
        "case_western_st_joseph": 26,
        "henry_ford": 34,
        "thomas_jefferson": 12,
    }
    assert all(len(set(chosen)) == len(chosen) for chosen in patients.values())
    assert deal(patients, 5) == folds
    # Stratified: no fold has two patients more of a hospital than another.
    for name in patients:
        sizes = [len(fold[name]) for fold in folds]
        assert max(sizes) - min(sizes) <= 1


def test_chosen_patients_are_written_as_folders_to_train_on(generated, tmp_path):
    folders = hospital_folders(generated)
    everyone = {
        name: [case.patient for case in read_datalist(folder).cases]
        for name, folder in folders.items()
    }
    folds = deal(everyone, 3)
    chosen = choose(generated, folds, [0, 2])
    written = chosen.write(tmp_path / "hospitals")
    for name, folder in written.items():
        cases = read_datalist(folder).cases
        assert sorted(case.patient for case in cases) == sorted(folds[0][name] + folds[2][name])
        assert all(case.image.is_file() and case.label.is_file() for case in cases)
    assert set(chosen.cases()) == set(chosen.hospital_of())
    assert not set(chosen.cases()) & set(choose(generated, folds, [1]).cases())


def test_missing_scans_are_reported_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("CONSORTIUM_REAL_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=r"no-real-data: no such folder, .*lgg, set CONS"):
        find_data("lgg")


def double(part):
    return [{"model": part["arm"], "value": 2 * part["number"]}]


def refuse(part):
    raise AssertionError("measured again")


def test_what_is_on_record_is_not_measured_again(tmp_path):
    file = tmp_path / "records.jsonl"
    parts = [{"arm": "a", "number": number} for number in (1, 2)]
    collected = records.collect(parts, double, file, "plan")
    assert [(record["number"], record["value"], record["plan"]) for record in collected] == [
        (1, 2, "plan"),
        (2, 4, "plan"),
    ]
    assert all(r["seconds"] >= 0 and r["commit"] and r["machine"] for r in collected)
    assert records.collect(parts, refuse, file, "plan") == collected == records.read_records(file)
    with pytest.raises(Refused, match="other-plan"):
        records.collect(parts, double, file, "other")


def on_record(plan, level):
    """Makes records in which each arm has one level of Dice, plus an offset of each patient."""
    made = []
    for part in plan.parts():
        names = [part["arm"]]
        if part["arm"] == accuracy.FEDERATED:
            names += [f"alone/{name}" for name in plan.folds[0]]
        if part["arm"] == accuracy.ALONE_TWICE:
            names = [f"{accuracy.ALONE_TWICE}/{name}" for name in plan.folds[0]]
        patients = [p for chosen in plan.folds[part["fold"]].values() for p in chosen]
        for name in names:
            dice = {p: level[name.partition("/")[0]] + (len(p) % 7) / 1000 for p in patients}
            origin = {"plan": plan.sha256, "commit": "c", "machine": "m, load 0", "seconds": 1}
            made.append({**part, **origin, "model": name, "dice": dice})
    return made


POOLED = ("pooled", "pooled, equal steps", "pooled, twice the rounds")
LEVEL = {
    "federated": 0.80,
    "pooled": 0.82,
    "pooled, equal steps": 0.79,
    "alone": 0.60,
    "pooled, twice the rounds": 0.83,
    "alone, twice the rounds": 0.61,
}


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"federated": 0.765}, ["federated less pooled, equal passes"]),
        (
            {"federated": 0.755},
            ["federated less pooled, equal steps", "federated less pooled, equal passes"],
        ),
        ({"pooled, twice the rounds": 0.845}, ["pooled: gain of twice the rounds, fold 1"]),
        (
            LEVEL | dict.fromkeys(POOLED, 0.6) | {"federated": 0.6},
            [f"federated less {name} alone, all patients" for name in sorted(read_folds()[0])],
        ),
    ],
)
def test_each_target_is_compared_with_its_bound(change, missed, tmp_path):
    plan = accuracy.Plan(tmp_path, read_folds(), accuracy.real_settings())
    for name in plan.folds[0]:
        (tmp_path / name).mkdir()
    claims = accuracy.judge(plan, on_record(plan, LEVEL | change))
    assert [claim.what for claim in claims if claim.met is False and "Dice" not in claim.what] == (
        missed
    )
    own = [claim for claim in claims if "own patients" in claim.what]
    assert len(own) == 4
    assert all(claim.met is None for claim in own)
    text = accuracy.table(plan, on_record(plan, LEVEL | change), claims)
    assert "| federated | 82 | 0." in text
    assert "the variance of training sets" in " ".join(text.split())


def test_a_missing_part_is_no_result(tmp_path):
    plan = accuracy.Plan(tmp_path, read_folds(), accuracy.real_settings())
    with pytest.raises(Refused, match=r"not-measured: 3 arms are not on record"):
        accuracy.judge(
            plan, [r for r in on_record(plan, LEVEL) if (r["fold"], r["seed"]) != (3, 1)]
        )


def test_a_quick_run_measures_every_arm_and_goes_on_from_its_records(tmp_path, capsys):
    file = tmp_path / "records.jsonl"
    accuracy.run(True, file, False)
    assert "| federated | 8 |" in capsys.readouterr().out
    measured = records.read_records(file)
    models = {record["model"] for record in measured}
    assert len(models) == 3 + 2 + 1 + 2
    patients = [p for r in measured if r["model"] == "federated" for p in r["dice"]]
    assert len(set(patients)) == len(patients) == 8
    assert all(0 <= value <= 1 for record in measured for value in record["dice"].values())


def test_a_missed_target_ends_with_1(monkeypatch, tmp_path):
    plan = accuracy.Plan(tmp_path, read_folds(), accuracy.real_settings())
    for name in plan.folds[0]:
        (tmp_path / name).mkdir()
    file = tmp_path / "records.jsonl"
    lines = [json.dumps(record) for record in on_record(plan, LEVEL | {"federated": 0.7})]
    file.write_text("\n".join(lines))
    monkeypatch.setattr(accuracy, "real_plan", lambda: plan)
    with pytest.raises(Incomplete, match="federated less pooled, equal passes"):
        accuracy.run(False, file, True)


def test_every_variant_is_a_valid_setting_and_has_a_name_of_its_own():
    listed = variants.read_variants()
    assert len({variant["name"] for variant in listed}) == len(listed) > 5
    assert listed[0]["set"] == []
    digests = {(variants.digest_of(v), v.get("arm")) for v in listed}
    assert len(digests) == len(listed)
