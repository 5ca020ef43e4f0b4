"""Names of what the orchestrator asks of hospitals, in a job's configuration and on the wire."""

TRAIN = "train"
VALIDATE = "validate"
BASELINE = "baseline"
LOCAL_MODEL = "local_model"
WITHOUT = "without"
CONFOUNDING = "confounding"
