"""JSON that other people or programs have written."""

import json
from pathlib import Path
from typing import Any

from consortium.core.errors import UsageError
from consortium.core.plain_files import MAX_BYTES, read_plain

MAX_DEPTH = 64
"""Number of levels that JSON may be nested."""


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: it is not JSON, or is nested more than `MAX_DEPTH` levels deep.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [part for parent in level for part in _parts(parent)]
        if not level:
            return content
    raise _too_deep()


def _parts(content: Any) -> list[Any]:
    """The lists and objects directly inside a value."""
    if isinstance(content, dict):
        content = content.values()
    elif not isinstance(content, list):
        return []
    return [part for part in content if isinstance(part, (dict, list))]


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {MAX_DEPTH} levels deep")


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """Reads a JSON file.

    Raises:
        OSError: the file is larger than `limit` bytes, is no plain file, or cannot be read.
        ValueError: see `parse_json`.
    """
    return parse_json(read_plain(path, limit).decode("utf-8"))


def read_json_object(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Reads a JSON file whose top level is an object.

    Raises:
        UsageError: `missing-file` or `bad-json`.
    """
    try:
        raw = read_json(path, limit)
    except FileNotFoundError:
        raise UsageError("missing-file", "no such file", str(path), "check the path") from None
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UsageError(
            "bad-json", f"not a JSON file ({reason})", str(path), "repair it"
        ) from None
    except ValueError as error:
        raise UsageError("bad-json", f"not a JSON file ({error})", str(path), "repair it") from None
    if not isinstance(raw, dict):
        raise UsageError("bad-json", "the top level is not an object", str(path), "repair it")
    return raw
