"""Aggregation: from the hospitals' updates to the change of the shared model.

Every rule gives the same bytes for every order of arrival. A job names its rule; `RULES` is the
registry.
"""

from collections.abc import Callable, Mapping

from consortium.aggregation.weighted_mean import WeightedMean
from consortium.update import Layout

RULES: Mapping[str, Callable[[Layout], WeightedMean]] = {"weighted_mean": WeightedMean}
