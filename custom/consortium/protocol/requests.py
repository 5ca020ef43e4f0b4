"""What the orchestrator asks of a hospital, and the method of `LocalTrainer` that answers it.

Nothing here needs torch, so that the process of FLARE's job at the hospital does without.
"""

from collections.abc import Callable, Mapping
from typing import Any

TRAIN, VALIDATE, BASELINE, LOCAL_MODEL = "train", "validate", "baseline", "local_model"
WITHOUT, CONFOUNDING = "without", "confounding"

ANSWERED_BY_UPDATES = frozenset({TRAIN, LOCAL_MODEL, WITHOUT})
"""Requests whose answer is an update; that of the others is metrics."""

_CALLS: dict[str, Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]] = {
    TRAIN: lambda meta: ("train", {"round_number": int(meta["round"])}),
    LOCAL_MODEL: lambda meta: ("train", {"round_number": int(meta["round"]), "keep": False}),
    WITHOUT: lambda meta: ("train", {"round_number": int(meta["round"]), "keep": False}),
    CONFOUNDING: lambda meta: ("probe_statistics", {}),
    VALIDATE: lambda meta: ("validate", {}),
    BASELINE: lambda meta: ("train_local", {"rounds": int(meta["rounds"])}),
}


def call_of(request: str, meta: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The method of `LocalTrainer` that answers a request, and its arguments beside the model.

    Args:
        request: what is asked.
        meta: what came with the model.

    Returns:
        None where there is no such request.
    """
    return _CALLS[request](meta) if request in _CALLS else None
