"""What hospitals of a federation on one machine choose."""

import pytest

from consortium.kits.hospital import HospitalFile
from consortium.runs.federation import choices_of_a_trial


@pytest.mark.parametrize("own", [{}, {"privacy": {"questions": 7}}, {"privacy": {"columns": {}}}])
def test_jobs_may_read_every_column_of_a_trials_folder(tmp_path, own):
    shipped = HospitalFile().model_dump()
    chosen = HospitalFile.model_validate(choices_of_a_trial(shipped, own, tmp_path))
    assert chosen.data == str(tmp_path)
    assert chosen.privacy.columns == "all"
    assert chosen.privacy.questions == own.get("privacy", {}).get("questions", 1000)


def test_columns_that_a_hospital_of_a_trial_lists_are_kept(tmp_path):
    shipped = HospitalFile().model_dump() | {"privacy": {"columns": {"sex": ["0", "1"]}}}
    chosen = HospitalFile.model_validate(choices_of_a_trial(shipped, {}, tmp_path))
    assert chosen.privacy.columns == {"sex": ["0", "1"]}
