import pytest
import torch

from consortium.models.averaging import ModelAverage
from consortium.orchestration.model_selection import first_averaged


def model(value, count=0):
    return {"weight": torch.tensor([value, 2 * value]), "seen": torch.tensor(count)}


@pytest.mark.parametrize(
    ("rounds", "share", "expected"),
    [(60, 0.2, 48), (10, 0.2, 8), (3, 0.2, 2), (1, 0.2, 0), (4, 1.0, 0), (100, 0.07, 93)],
)
def test_the_last_share_of_the_rounds_is_averaged_and_at_least_one(rounds, share, expected):
    assert first_averaged(rounds, share) == expected


def test_the_mean_is_of_all_models_and_counters_are_the_last_ones():
    average = ModelAverage()
    for value, count in ((1.0, 5), (2.0, 10), (6.0, 15)):
        average.add(model(value, count))
    mean = average.mean(model(0.0))
    assert torch.equal(mean["weight"], torch.tensor([3.0, 6.0]))
    assert (mean["weight"].dtype, int(mean["seen"])) == (torch.float32, 15)


def test_a_model_that_changes_later_does_not_change_the_mean():
    average, given = ModelAverage(), model(1.0)
    average.add(given)
    given["weight"].add_(5)
    given["seen"].add_(5)
    assert torch.equal(average.mean(given)["weight"], torch.tensor([1.0, 2.0]))
    assert int(average.mean(given)["seen"]) == 0


def test_many_half_precision_models_do_not_lose_the_last_ones():
    average, model = ModelAverage(), {"weight": torch.ones(1, dtype=torch.bfloat16)}
    for _ in range(1000):
        average.add(model)
    assert float(average.mean(model)["weight"]) == 1.0


def test_it_resumes_from_its_sums_and_no_models_have_no_mean():
    whole, first = ModelAverage(), ModelAverage()
    for value in (0.1, 0.2, 0.3):
        whole.add(model(value))
    first.add(model(0.1))
    resumed = ModelAverage(first.count, first.sums)
    resumed.add(model(0.2))
    resumed.add(model(0.3))
    assert torch.equal(resumed.sums["weight"], whole.sums["weight"])
    assert ModelAverage.blank(model(1.0))["weight"].dtype == torch.float64
    with pytest.raises(ZeroDivisionError):
        ModelAverage().mean(model(1.0))
