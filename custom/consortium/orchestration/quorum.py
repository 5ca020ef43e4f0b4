"""The hospitals of a study and how many of them a round needs, as declared in `meta.json`.

FLARE's own `min_clients` and `mandatory_clients` are derived from this declaration.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from consortium.core.errors import UsageError
from consortium.core.plurals import plural


class Quorum(BaseModel):
    """The quorum that a study declares.

    Attributes:
        hospitals: hospitals that take part, sorted.
        minimum: number of answers without which a round is not aggregated; by default all.
        mandatory: hospitals whose answer every round needs.
        deadline: seconds that a round waits for missing answers; by default `deadline_factor` times
            the last answering time of the slowest hospital.
        deadline_factor: see `deadline`.
        max_attempts: number of times that a round is attempted before the run stops.
        retry_delay: seconds before failed hospitals are asked again.
        reconnect_timeout: seconds that a round without its quorum waits, beyond `max_attempts`, for
            hospitals that are silent or not connected: a network may be down for some minutes.
        clients_per_round: number of hospitals that are asked in a round, drawn with the run's seed;
            by default all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    hospitals: tuple[str, ...]
    minimum: Annotated[int, Field(ge=1)]
    mandatory: tuple[str, ...] = ()
    deadline: Annotated[float | None, Field(gt=0)] = None
    deadline_factor: Annotated[float, Field(ge=1)] = 10.0
    max_attempts: Annotated[int, Field(ge=1)] = 3
    retry_delay: Annotated[float, Field(ge=0)] = 10.0
    reconnect_timeout: Annotated[float, Field(ge=0)] = 900.0
    clients_per_round: Annotated[int | None, Field(ge=1)] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        asked = self.clients_per_round or len(self.hospitals)
        unknown = sorted(set(self.mandatory) - set(self.hospitals))
        if not self.hospitals or list(self.hospitals) != sorted(set(self.hospitals)):
            raise ValueError("hospitals must be sorted, each once, at least one")
        if unknown:
            raise ValueError(f"mandatory: {', '.join(unknown)} does not take part")
        if asked > len(self.hospitals):
            raise ValueError(
                f"clients_per_round: the study has {plural(len(self.hospitals), 'hospital')}"
            )
        if self.minimum > asked:
            raise ValueError(
                f"minimum: only {plural(asked, 'hospital is', 'hospitals are')} asked in a round"
            )
        if len(self.mandatory) > asked:
            raise ValueError(
                f"mandatory: only {plural(asked, 'hospital is', 'hospitals are')} asked in a round"
            )
        return self

    def without(self, hospital: str) -> "Quorum":
        """Returns the quorum without a hospital; at least one other hospital must remain."""
        others = tuple(name for name in self.hospitals if name != hospital)
        clients = min(self.clients_per_round, len(others)) if self.clients_per_round else None
        return self.model_copy(
            update={
                "hospitals": others,
                "minimum": min(self.minimum, clients or len(others)),
                "mandatory": tuple(name for name in self.mandatory if name != hospital),
                "clients_per_round": clients,
            }
        )

    def does_without(self, absent: Collection[str]) -> bool:
        """Whether every round can be closed without these hospitals."""
        asked = self.clients_per_round or len(self.hospitals)
        return asked - len(absent) >= self.minimum and not set(absent) & set(self.mandatory)

    @property
    def needed(self) -> tuple[str, ...]:
        """The hospitals that every round needs."""
        return self.hospitals if self.minimum == len(self.hospitals) else self.mandatory


def declare_quorum(
    hospitals: Sequence[str], declared: Mapping[str, Any], where: str = "meta.json"
) -> Quorum:
    """Builds the quorum of a study.

    Args:
        hospitals: hospitals that take part.
        declared: the study's other declarations; see `Quorum`.
        where: source of the declaration, for an error.

    Raises:
        UsageError: `bad-quorum`, with the key.
    """
    names = tuple(sorted(set(hospitals)))
    asked = declared.get("clients_per_round") or len(names)
    try:
        return Quorum.model_validate({"minimum": asked, **declared, "hospitals": names})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("quorum", *first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError("bad-quorum", f"{key}: {message}", where, "correct the value") from None
