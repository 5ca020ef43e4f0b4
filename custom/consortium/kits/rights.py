"""Compares a hospital's own policy, `local/authorization.json`, with the shipped one.

FLARE takes the hospital's file instead of the shipped one, whatever is in it. A right is compared
as FLARE reads it: by role, then by right; a role may have one value for all rights. A value counts
as more unless it surely is as narrow as the shipped one.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object
from consortium.kits.site_defaults import AUTHORIZATION

POLICY = "local/authorization.json"
"""A hospital's own policy in its kit; not there at first."""

_NONE, _ANY = ("none", "no"), ("any", "all")


def further_right(role: str, right: str, value: str) -> str:
    """Returns a right beyond the shipped ones in words, as it is reported and repeated."""
    return f"{role} may {right}: {value}"


def further_rights(kit: Path) -> list[str]:
    """Returns each right of a hospital's own policy beyond the shipped ones, in words.

    Raises:
        UsageError: `bad-json` or `bad-policy`, if the file is no policy.
    """
    if not (kit / POLICY).exists():
        return []
    own = _permissions(kit / POLICY)
    return sorted(set(_compare(own, AUTHORIZATION["permissions"])))


def _permissions(path: Path) -> list[tuple[str, Any]]:
    """Reads the rights of each role; FLARE adds up two roles that differ by capitals alone."""
    content = read_json_object(path).get("permissions")
    if not isinstance(content, dict):
        raise UsageError("bad-policy", "no object permissions", str(path), f"copy {POLICY}.default")
    return [(_plain(role), rights) for role, rights in content.items()]


def _compare(own: list[tuple[str, Any]], shipped: Mapping[str, Any]) -> Iterator[str]:
    for role, rights in own:
        if not isinstance(rights, dict):
            # One value for all rights, those that the shipped policy does not name included.
            if not _grants_nothing(rights):
                yield further_right(role, "*", _text(rights))
            continue
        known = shipped.get(role, {})
        for right, value in rights.items():
            if not _within(value, known.get(_plain(right), "none")):
                yield further_right(role, _plain(right), _text(value))


def _within(value: Any, shipped: Any) -> bool:
    return _grants_nothing(value) or _text(value) == _text(shipped) or _text(shipped) in _ANY


def _grants_nothing(value: Any) -> bool:
    return _text(value) in _NONE


def _text(value: Any) -> str:
    return _plain(value) if isinstance(value, str) else json.dumps(value)


def _plain(text: str) -> str:
    """As FLARE compares names and values."""
    return " ".join(text.lower().split())
