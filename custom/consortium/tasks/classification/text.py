"""What people read of a classification of X-rays."""

from consortium.tasks.classification.settings import ClassificationSettings
from consortium.tasks.text import TaskText, join

_NETWORKS = {"small": "small convolutional network", "densenet121": "DenseNet-121"}


def _describe(settings: ClassificationSettings) -> str:
    network, classes = _NETWORKS[settings.network.name], join(list(settings.data.classes))
    return f"a {network} that tells {classes} apart on frontal chest X-rays"


def _further(settings: ClassificationSettings) -> str:
    return (
        "Average precision is the mean precision down the model's order of patients: by chance it"
        " is the share of the class. Sensitivity is the share of the class that is found where at"
        f" least {100 * settings.data.specificity:g}\u00a0% of the others are rightly left out. The"
        " calibration error is the mean distance between what is predicted of the class and what"
        " is seen: 0 is best."
    )


TEXT = TaskText(
    key="auroc",
    tag=("validation", "mean_AUROC"),
    headline="AUROC",
    mean="a mean AUROC",
    title="Mean AUROC",
    meaning="On each hospital's own validation patients: accuracy is the share whose class the"
    " model gives; AUROC the probability that of two patients, one of the class and one of"
    " another, the model gives the class more to the right one (0.5 is chance). A hospital"
    " tells nothing of a class that it has few patients of.",
    further=_further,
    loss="cross-entropy",
    own="batch-norm statistics",
    reads="reads its X-rays:",
    inputs="X-rays",
    progress="Reading X-rays",
    describe=_describe,
)
