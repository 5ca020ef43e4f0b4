"""The patterns of the names from which paths are made."""

import re

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HOSPITAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
TAKEN_NAMES = ("server", "global")
"""Names that no hospital has: FLARE's own site, and the folder of the common curves."""


def is_run_id(value: object) -> bool:
    """Whether a value is the id of a run: letters, digits, `_` and `-`, at most 64."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def is_hospital_name(value: object) -> bool:
    """Whether a value is the name of a hospital: letters, digits, `.`, `_` and `-`, at most 63."""
    return (
        isinstance(value, str)
        and _HOSPITAL_NAME.fullmatch(value) is not None
        and value.lower() not in TAKEN_NAMES
    )
