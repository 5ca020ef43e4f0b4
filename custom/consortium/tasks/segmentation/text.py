"""The text of the segmentation task."""

from consortium.tasks.segmentation.settings import SegmentationSettings
from consortium.tasks.text import TaskText, join

_NETWORKS = {"unet": "U-Net", "segresnet": "SegResNet", "dynunet": "DynUNet"}


def _describe(settings: SegmentationSettings) -> str:
    data = settings.data
    return (
        f"a {data.spatial_dims}-D {_NETWORKS[settings.network.name]} that outlines"
        f" {join(list(data.labels))} on {join(data.channels)} images"
    )


TEXT = TaskText(
    key="dice",
    tag=("dice_validation", "mean"),
    headline="Dice",
    mean="a mean Dice",
    title="Mean Dice",
    meaning="Mean Dice on each hospital's own validation patients: 1 if the model's outline"
    " equals the true one, 0 if they do not overlap.",
    loss="Dice loss plus cross-entropy",
    own="batch-norm statistics",
    reads="reads its scans:",
    inputs="scans",
    progress="Scoring patients",
    describe=_describe,
)
