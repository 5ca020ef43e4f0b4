"""The text that people read about a classification of X-rays."""

from consortium.tasks.classification.settings import ClassificationSettings
from consortium.tasks.text import TaskText, join

_NETWORKS = {"small": "small convolutional network", "densenet121": "DenseNet-121"}


def _describe(settings: ClassificationSettings) -> str:
    network, classes = _NETWORKS[settings.network.name], join(list(settings.data.classes))
    return f"a {network} that classifies frontal chest X-rays into {classes}"


def _further(settings: ClassificationSettings) -> str:
    return (
        "Average precision is the mean precision over the model's ranking of patients; the share of"
        " the class is chance. Sensitivity is the share of the class that the model finds at a"
        f" specificity of at least {100 * settings.data.specificity:g}\u00a0%. The calibration"
        " error is the mean distance between the predicted and the observed share of the class; 0"
        " is best."
    )


TEXT = TaskText(
    key="auroc",
    tag=("validation", "mean_AUROC"),
    headline="AUROC",
    mean="a mean AUROC",
    title="Mean AUROC",
    meaning="On each hospital's own validation patients: accuracy is the share whose class the"
    " model predicts. AUROC is the probability that the model scores a patient of the class higher"
    " than a patient of another class (0.5 is chance). A hospital reports nothing about a class"
    " with too few patients.",
    further=_further,
    loss="cross-entropy",
    own="batch-norm statistics",
    reads="reads its X-rays:",
    inputs="X-rays",
    progress="Reading X-rays",
    describe=_describe,
)
