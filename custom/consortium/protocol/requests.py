"""The orchestrator's requests to a hospital, and the method of `LocalTrainer` that answers each.

Nothing here needs torch, so the process of FLARE's job at the hospital need not load it.
"""

from collections.abc import Callable, Mapping
from typing import Any

TRAIN, VALIDATE, BASELINE, LOCAL_MODEL = "train", "validate", "baseline", "local_model"
WITHOUT, CONFOUNDING = "without", "confounding"

ANSWERED_BY_UPDATES = frozenset({TRAIN, LOCAL_MODEL, WITHOUT})
"""Requests that are answered with an update; the others are answered with metrics."""

_CALLS: dict[str, Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]] = {
    TRAIN: lambda meta: ("train", {"round_number": int(meta["round"])}),
    LOCAL_MODEL: lambda meta: ("train", {"round_number": int(meta["round"]), "keep": False}),
    WITHOUT: lambda meta: ("train", {"round_number": int(meta["round"]), "keep": False}),
    CONFOUNDING: lambda meta: ("probe_statistics", {}),
    VALIDATE: lambda meta: ("validate", {}),
    BASELINE: lambda meta: ("train_local", {"rounds": int(meta["rounds"])}),
}


def call_of(request: str, meta: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Returns the method of `LocalTrainer` that answers a request, and its further arguments.

    Args:
        request: name of the request.
        meta: the fields that accompany the model.

    Returns:
        None if there is no such request. The arguments do not include the model.
    """
    return _CALLS[request](meta) if request in _CALLS else None
