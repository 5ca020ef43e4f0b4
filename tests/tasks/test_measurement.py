"""In how many patients two evaluations differ."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consortium.tasks.measurement import changed_order, changed_values, ranks

FAR = 1000


def by_hand(first, second, positive):
    """The fewest patients to leave out, by trying all."""
    patients = range(len(first))
    for size in range(len(first), -1, -1):
        for kept in combinations(patients, size):
            agree = all(
                np.sign(first[i] - first[j]) == np.sign(second[i] - second[j])
                for i, j in combinations(kept, 2)
            )
            if agree and all(positive[0][i] == positive[1][i] for i in kept):
                return len(first) - size
    raise AssertionError


small = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans()), max_size=7
)


@given(small)
def test_the_number_is_the_fewest_patients_to_leave_out(rows):
    first, second = (np.array([row[k] for row in rows], float) for k in (0, 1))
    positive = tuple(np.array([row[k] for row in rows], bool) for k in (2, 3))
    if len(rows):
        first, second = ranks(first), ranks(second)
    expected = by_hand(first, second, positive)
    assert changed_order(first, second, positive, FAR) == expected
    for enough in (1, 2, 3):
        assert (changed_order(first, second, positive, enough) >= enough) == (expected >= enough)


@pytest.mark.parametrize(("change", "count"), [(0.0, 0), (1e-6, 0), (0.1, 3)])
def test_a_patient_whose_figure_hardly_moves_has_not_changed(change, count):
    values = np.linspace(0, 1, 9)
    moved = values.copy()
    moved[:3] += change
    assert changed_values(values, moved) == count
