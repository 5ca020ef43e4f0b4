"""The columns of a table that a job reads, within what the hospital releases."""

from pathlib import Path

from consortium.core.site_policy import Columns
from consortium.tasks.columns import Proposal, propose_columns, require_range, require_values
from consortium.tasks.tabular.dataset import read_patients
from consortium.tasks.tabular.settings import TabularSettings


def bound_columns(settings: TabularSettings, columns: Columns) -> TabularSettings:
    """Puts the hospital's ranges and values in place of the job's; see `Task.bound`.

    Raises:
        Refused: `data-unfit`.
    """
    data = settings.data
    classes = data.outcome.classes
    values = [value for group in classes.values() for value in group]
    own = require_values(columns, data.outcome.column, values)
    outcome = {name: [value for value in group if value in own] for name, group in classes.items()}
    changes = {
        "numbers": {
            name: require_range(columns, name, *ends) for name, ends in data.numbers.items()
        },
        "categories": {
            name: require_values(columns, name, known) for name, known in data.categories.items()
        },
        "outcome": data.outcome.model_copy(update={"classes": outcome}),
    }
    return settings.model_copy(update={"data": data.model_copy(update=changes)})


def propose_table(folder: Path, settings: TabularSettings | None) -> Proposal:
    """Proposes the columns of a table; see `Task.propose`."""
    if settings is None:
        return propose_columns(read_patients(folder))
    data = settings.data
    labels = [value for group in data.outcome.classes.values() for value in group]
    return Proposal({**data.numbers, **data.categories, data.outcome.column: labels})
