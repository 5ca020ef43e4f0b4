"""The columns of `labels.csv` that a job reads, within what the hospital releases.

The file, the patient, the view and the split belong to the layout of the folder; every task reads
them. The label and the source are released by the hospital.
"""

from pathlib import Path

from consortium.core.site_policy import Columns
from consortium.tasks.classification.dataset import FILE, LABEL, LABELS, VIEW
from consortium.tasks.classification.settings import ClassificationSettings
from consortium.tasks.columns import Proposal, propose_columns, require_column, require_values
from consortium.tasks.tables import read_table


def bound_columns(settings: ClassificationSettings, columns: Columns) -> ClassificationSettings:
    """Puts the hospital's labels in place of the job's; see `Task.bound`.

    Raises:
        Refused: `data-unfit`.
    """
    data = settings.data
    own = require_values(columns, LABEL, [v for group in data.classes.values() for v in group])
    if data.source is not None:
        require_column(columns, data.source)
    classes = {
        name: [value for value in group if value in own] for name, group in data.classes.items()
    }
    return settings.model_copy(update={"data": data.model_copy(update={"classes": classes})})


def propose_labels(folder: Path, settings: ClassificationSettings | None) -> Proposal:
    """Proposes the columns of `labels.csv`; see `Task.propose`."""
    table = read_table(folder, LABELS)
    found = propose_columns(table, leave_out=(FILE, VIEW))
    if settings is None:
        return found
    data = settings.data
    labels = [value for group in data.classes.values() for value in group]
    source = {data.source: found.columns[data.source]} if data.source in found.columns else {}
    return Proposal({LABEL: labels, **source})
