"""The aggregation rules and their options, read from the rules' own files.

A rule is one file of `consortium.aggregation` with a constant `OPTIONS` at its top level, and has
the file's name. The constant is a literal, read from the source: importing the file would import
torch, which the job's process at a hospital does not need.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AGGREGATION = Path(__file__).parents[1] / "aggregation"
"""The folder of the rules."""


class Option(BaseModel):
    """One option of a rule, as the rule's file declares it.

    Attributes:
        type: a `number` or an `integer`.
        above, least, below, most: the bounds; `above` and `below` are excluded.
        default: the rule's value if the option is not set.
        meaning: text for the reference of settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["number", "integer"]
    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    default: float
    meaning: str

    @property
    def annotation(self) -> Any:
        """The type of the pydantic field, which is null if the option is not set."""
        bounds = {"gt": self.above, "ge": self.least, "lt": self.below, "le": self.most}
        given: dict[str, Any] = {key: bound for key, bound in bounds.items() if bound is not None}
        whole = self.type == "integer"
        number: Any = Annotated[int if whole else float, Field(**given)]
        return number | None


COMMON = {
    "max_share": Option(
        type="number",
        above=0,
        most=1,
        default=1.0,
        meaning="the largest share of the total weight that a hospital may have",
    )
}
"""Options that rules share; a rule's file declares them as None."""


def read_rules(folder: Path = AGGREGATION) -> dict[str, dict[str, Option]]:
    """Reads the options of each rule, by the names of rules and options.

    Raises:
        ValueError: a rule's `OPTIONS` is not a literal of options, or two rules define one option
            in different ways.
    """
    rules = {}
    for path in sorted(folder.glob("*.py")):
        declared = _declared(path)
        if declared is not None:
            rules[path.stem] = {
                name: COMMON[name] if given is None else Option.model_validate(given)
                for name, given in declared.items()
            }
    options_of_all(rules)
    return rules


def options_of_all(rules: Mapping[str, Mapping[str, Option]]) -> dict[str, Option]:
    """Merges the options of all rules.

    Raises:
        ValueError: two rules define one option in different ways.
    """
    merged: dict[str, Option] = {}
    for rule, options in rules.items():
        for name, option in options.items():
            if merged.setdefault(name, option) != option:
                raise ValueError(f"{rule}.py: another rule defines the option {name} differently")
    return merged


def option_fields(rules: Mapping[str, Mapping[str, Option]]) -> dict[str, Any]:
    """Turns the options of all rules into fields of a pydantic model."""
    fields = {}
    for name, option in options_of_all(rules).items():
        owners = ", ".join(f"`{rule}`" for rule, options in rules.items() if name in options)
        meaning = f"{option.meaning}; {option.default:g} if null. An option of {owners}."
        fields[name] = (option.annotation, Field(default=None, description=meaning))
    return fields


def _declared(path: Path) -> dict[str, Any] | None:
    """Reads the literal `OPTIONS` of a file; None if the file has none, so it is not a rule."""
    source = path.read_text(encoding="utf-8")
    if "\nOPTIONS" not in source:
        return None
    for node in ast.parse(source, str(path)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "OPTIONS" for target in targets):
            value: dict[str, Any] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return value
    return None


RULES = read_rules()
"""The options of each rule of this package."""
