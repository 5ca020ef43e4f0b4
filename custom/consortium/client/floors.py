"""What a hospital requires of a job, and of the patients behind a round's steps.

Invariants: a job outside the hospital's limits is refused before data are opened. An update does
not leave if fewer distinct patients than the hospital's floor are behind it, or mostly one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consortium.core.errors import Refused
from consortium.core.plurals import plural
from consortium.core.site_policy import Privacy
from consortium.settings.base import Settings

LARGEST_SHARE = 1 / 5
"""Largest share of one patient in the summed step sizes of a round, if the floor is 5 or more."""
_ROUNDING = 1e-9  # a share is a sum of many floats


def require_limits(settings: Settings, privacy: Privacy) -> None:
    """Refuses a job with a setting outside the hospital's limits.

    Raises:
        Refused: `outside-limits`, with the setting.
    """
    outside = privacy.settings.outside(settings.model_dump())
    if outside is not None:
        raise Refused(
            "outside-limits",
            outside,
            "privacy.settings of local/hospital.json",
            "ask for another value in the job, or widen the limit",
        )


def require_patients(patients: int, privacy: Privacy) -> None:
    """Refuses to take part with too few training patients.

    Raises:
        Refused: `too-few-patients`.
    """
    if patients < privacy.smallest_training:
        raise Refused(
            "too-few-patients",
            f"{patients} training patients; this hospital takes part from"
            f" {privacy.smallest_training} (privacy.smallest_training of local/hospital.json)",
            "",
            "add patients",
        )


def check_round(
    batches: Sequence[NDArray[np.int64]], rates: Sequence[float], privacy: Privacy
) -> Refused | None:
    """Checks which patients stand behind the steps of a round.

    The size of a step is its learning rate, in equal parts for the samples of its batch.

    Args:
        batches: for each step, the patient's number of each sample, from 0.
        rates: for each step, its learning rate.
        privacy: the hospital's.

    Returns:
        `too-few-per-round` or `too-much-of-one-patient`, to be raised; None if all is well.
    """
    parts = np.zeros(1 + max(int(batch.max()) for batch in batches))
    for batch, rate in zip(batches, rates, strict=True):
        np.add.at(parts, batch, rate / len(batch))
    # By the batches, not the parts: a rate may be 0.
    distinct = len(np.unique(np.concatenate(batches)))
    if distinct < privacy.smallest_training:
        return Refused(
            "too-few-per-round",
            f"{plural(distinct, 'patient')} behind the steps of a round; this hospital requires"
            f" {privacy.smallest_training}",
            "training",
            "take more steps or larger batches",
        )
    largest = max(LARGEST_SHARE, 1 / privacy.smallest_training)
    if parts.max() > (largest + _ROUNDING) * sum(rates):
        return Refused(
            "too-much-of-one-patient",
            f"one patient has more than {largest:.0%} of the step sizes of a round",
            "training",
            "take more steps or larger batches, or draw patients evenly",
        )
    return None
