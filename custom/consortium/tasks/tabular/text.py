"""The text that people read about a prediction from a table."""

from consortium.tasks.tabular.settings import TabularSettings
from consortium.tasks.text import TaskText, join


def _describe(settings: TabularSettings) -> str:
    data = settings.data
    target = list(data.outcome.classes)[-1]
    columns = join([*data.numbers, *data.categories])
    return f"a logistic regression that predicts {target} from {columns}"


TEXT = TaskText(
    key="accuracy",
    tag=("validation", "accuracy"),
    headline="accuracy",
    mean="an accuracy",
    title="Accuracy",
    meaning="On each hospital's own validation patients: accuracy is the share whose class the"
    " model predicts. AUROC is the probability that the model scores a patient of the predicted"
    " class higher than a patient of the other class (0.5 is chance).",
    loss="cross-entropy",
    own="means and deviations of the inputs",
    reads="reads its table:",
    inputs="a table of patients",
    progress="Reading tables",
    describe=_describe,
)
