"""The text of the regression task."""

from consortium.tasks.text import TaskText, join

TEXT = TaskText(
    key="within",
    tag=("validation", "within_tolerance"),
    headline="share within tolerance",
    mean="a share within tolerance",
    title="Share within tolerance",
    meaning="The share of patients whose days are predicted within the tolerance.",
    loss="squared error",
    own="no statistics",
    reads="reads its stays:",
    inputs="a table of stays",
    progress="Reading stays",
    describe=lambda settings: f"a line that predicts days from {join(settings.data.inputs)}",
)
