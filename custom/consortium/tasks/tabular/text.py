"""What people read of a prediction from a table."""

from consortium.tasks.tabular.settings import TabularSettings
from consortium.tasks.text import TaskText, join


def _describe(settings: TabularSettings) -> str:
    data = settings.data
    looked_for = list(data.outcome.classes)[-1]
    columns = join([*data.numbers, *data.categories])
    return f"a logistic regression that predicts {looked_for} from {columns}"


TEXT = TaskText(
    key="accuracy",
    tag=("validation", "accuracy"),
    headline="accuracy",
    mean="an accuracy",
    title="Accuracy",
    meaning="On each hospital's own validation patients: accuracy is the share whose class the"
    " model gives; AUROC the probability that of two patients, one of each class, the model"
    " gives the right one more (0.5 is chance).",
    loss="cross-entropy",
    own="means and deviations of the inputs",
    reads="reads its table:",
    inputs="a table of patients",
    progress="Reading tables",
    describe=_describe,
)
