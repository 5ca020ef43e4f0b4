"""Aggregation: from the hospitals' updates to the change of the federated model.

Every rule gives the same bytes for every order of arrival. A rule is one file of this package: it
declares its `OPTIONS` (see `consortium.settings.rules`), and its class has the file's name in
capitalised words. A job names its rule; `RULES` is the registry.
"""

from collections.abc import Callable, Mapping
from importlib import import_module

from consortium.aggregation.rule import AggregationRule
from consortium.settings import rules


def _class_of(name: str) -> Callable[..., AggregationRule]:
    module = import_module(f"{__name__}.{name}")
    rule: Callable[..., AggregationRule] = getattr(module, name.title().replace("_", ""))
    return rule


RULES: Mapping[str, Callable[..., AggregationRule]] = {
    name: _class_of(name) for name in rules.RULES
}
