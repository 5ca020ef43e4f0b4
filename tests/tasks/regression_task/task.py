"""The regression task: predicts days by a linear regression."""

import numpy as np
import torch
from tests.tasks.regression_task.settings import ERROR, WITHIN, RegressionSettings

from consortium.core.errors import Refused
from consortium.core.findings import error
from consortium.protocol.metrics import Score
from consortium.tasks.base import LocalTask, Task
from consortium.tasks.columns import Proposal
from consortium.tasks.evaluation import ALL, Evaluation, ScoreTable
from consortium.tasks.measurement import Measured, ScoredGroup
from consortium.tasks.scores import summarise
from consortium.tasks.tables import (
    PATIENT,
    SIDES,
    SPLIT,
    lines_of,
    read_table,
    require_csv,
    write_table,
)

LISTING, DAYS = RegressionSettings.listing, "days"


def arrays(table, data, side=None):
    """Ids, inputs (patients, columns) and days (patients,), of one side or all."""
    rows = [row for row in table.rows if side is None or row[SPLIT] == side]
    inputs = [[float(row[name]) for name in data.inputs] for row in rows]
    days = [float(row.get(DAYS, "nan")) for row in rows]
    names = [row[PATIENT] for row in rows]
    return names, torch.tensor(inputs).reshape(len(rows), -1), torch.tensor(days)


def predict(network, inputs):
    """Days (patients,)."""
    network.eval()
    with torch.no_grad():
        return network(inputs)[:, 0]


def score(predicted, days, data, smallest_group):
    """The share within the tolerance, and the score that may leave the hospital."""
    errors = (predicted - days).abs().double().numpy()
    within = summarise((errors <= data.tolerance).astype(float))
    if len(errors) < smallest_group:
        return within.mean, Score(withheld=f"fewer than {smallest_group} patients")
    mean = summarise(errors)
    intervals = {WITHIN: within.interval, ERROR: mean.interval}
    return within.mean, Score(
        patients=len(errors),
        figures={WITHIN: within.mean, ERROR: mean.mean},
        interval={name: list(ends) for name, ends in intervals.items()} if mean.interval else None,
    )


class RegressionTask(LocalTask):
    """The stays of one hospital."""

    def __init__(self, site, settings, device, progress):
        self._site, self._data = site, settings.data
        table = read_table(site.data, LISTING)
        _, self._inputs, self._days = arrays(table, settings.data, SIDES[0])
        self._validation = arrays(table, settings.data, SIDES[1])
        self.cases = self.patients = len(self._days)

    @property
    def samples(self):
        """Number of patients."""
        return self.cases

    def batches(self, size, seed):
        """Yields random batches without end."""
        for order in self.patients_of_batches(size, seed):
            chosen = torch.from_numpy(order)
            yield self._inputs[chosen], self._days[chosen][:, None]

    def patients_of_batches(self, size, seed):
        """Yields the patients of random batches without end."""
        numbers = np.random.default_rng(seed)
        while True:
            yield numbers.integers(self.cases, size=size)

    def loss(self, logits, targets):
        """Mean squared error."""
        return torch.nn.functional.mse_loss(logits, targets)

    def measure(self, network, progress, pulse):
        """Scores the validation patients."""
        (patients, inputs, days), data = self._validation, self._data
        progress(0, len(days))
        predicted = predict(network, inputs)
        group = ScoredGroup(subject="days", figures=(WITHIN, ERROR), values=predicted.numpy())
        value, reported = score(predicted, days, data, self._site.smallest_group)
        return Measured(value, reported, tuple(patients), (group,))


def check(folder, settings, progress):
    """Checks columns and numbers."""
    table = read_table(folder, LISTING)
    needed = [PATIENT, SPLIT, DAYS, *(settings.data.inputs if settings else [])]
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        return [error("missing-column", LISTING, f"no column {', '.join(lacking)}")]
    rows = zip(table.lines, table.rows, strict=True)
    outside = [line for line, row in rows if float(row[DAYS]) < 0]
    if not outside:
        return []
    return [error("out-of-range", LISTING, f"days below 0 in {lines_of(outside)}")]


def count(folder):
    """Counts cases and patients."""
    rows = read_table(folder, LISTING).rows
    return len(rows), len({row[PATIENT] for row in rows})


def predict_stays(model, inputs, output, progress, say):
    """Writes one row for each patient."""
    require_csv(output, inputs)
    names, values, _ = arrays(read_table(inputs[0], LISTING), model.settings.data)
    days = predict(model.network, values).tolist()
    rows = [(name, f"{value:.2f}") for name, value in zip(names, days, strict=True)]
    write_table(output, [PATIENT, "predicted days"], rows)
    say(f"wrote {output}: {len(rows)} patients")


def evaluate(model, folders, progress):
    """Scores each hospital and all together."""
    data = model.settings.data
    data_of = {name: arrays(read_table(path, LISTING), data) for name, path in folders.items()}
    groups = {
        name: (predict(model.network, inputs), days) for name, (_, inputs, days) in data_of.items()
    }
    groups[ALL] = tuple(torch.cat(parts) for parts in zip(*groups.values(), strict=True))
    scores = {name: score(*group, data, 1)[1] for name, group in groups.items()}
    rows = [
        (name, str(result.patients), *(f"{value:.3f}" for value in result.figures.values()))
        for name, result in scores.items()
    ]
    content = {name: result.model_dump() for name, result in scores.items()}
    return Evaluation(content, ScoreTable(("hospital",), ("patients", WITHIN, ERROR), (rows,)))


def require_match(model, other, where):
    """Refuses a model with other inputs."""
    if model.data.inputs != other.data.inputs:
        raise Refused("wrong-columns", "the model has other inputs", where, "use another model")


def pool(folders, out, settings):
    """Writes all rows into one table."""
    tables = {name: read_table(folder, LISTING) for name, folder in folders.items()}
    columns = [PATIENT, *settings.data.inputs, DAYS, SPLIT]
    rows = [
        [f"{name}/{row[PATIENT]}", *(row[column] for column in columns[1:])]
        for name, table in tables.items()
        for row in table.rows
    ]
    out.mkdir(parents=True)
    write_table(out / LISTING, columns, rows)


def network(settings):
    """One linear layer."""
    size = len(settings.data.inputs)
    return {"network_def": {"_target_": "torch.nn.Linear", "in_features": size, "out_features": 1}}


TASK = Task(
    open=RegressionTask,
    network=network,
    initialise=lambda network: None,
    adapt_weights=lambda state, fresh: state,
    require_folder=lambda name, folder, settings: None,
    require_match=require_match,
    bound=lambda settings, columns: settings,
    propose=lambda folder, settings: Proposal(),
    check=check,
    count=count,
    accepts=lambda path: path.suffix == ".csv",
    predict=predict_stays,
    evaluate=evaluate,
    pool=pool,
    metadata=lambda settings: {"packages": {}, "description": "Predicts days."},
    inference=lambda settings: {"run": ["$print('use consortium predict')"]},
)
