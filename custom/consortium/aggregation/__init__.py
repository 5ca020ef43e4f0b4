"""Aggregation: from the hospitals' updates to the change of the shared model.

Every rule gives the same bytes for every order of arrival. A job names its rule; `RULES` is the
registry.
"""

from collections.abc import Callable, Mapping

from consortium.aggregation.coordinate_median import CoordinateMedian
from consortium.aggregation.geometric_median import GeometricMedian
from consortium.aggregation.multi_krum import MultiKrum
from consortium.aggregation.norm_clipping import NormClipping
from consortium.aggregation.rule import AggregationRule
from consortium.aggregation.trimmed_mean import TrimmedMean
from consortium.aggregation.weighted_mean import WeightedMean

RULES: Mapping[str, Callable[..., AggregationRule]] = {
    "coordinate_median": CoordinateMedian,
    "geometric_median": GeometricMedian,
    "multi_krum": MultiKrum,
    "norm_clipping": NormClipping,
    "trimmed_mean": TrimmedMean,
    "weighted_mean": WeightedMean,
}
