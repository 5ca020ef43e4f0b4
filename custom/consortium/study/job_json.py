"""JSON as it arrives from others: one reading, or none."""

import json
from typing import Any


def parse_object(content: bytes) -> dict[str, Any]:
    """Parses a JSON object that has no key twice and no NaN.

    Raises:
        ValueError: it is anything else, too deep included.
    """
    try:
        parsed = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse
        )
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def canonical(value: Any) -> str:
    """Returns a text that two values share only if their JSON is the same; 1, 1.0 and true differ.

    Raises:
        ValueError: the value is not JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
