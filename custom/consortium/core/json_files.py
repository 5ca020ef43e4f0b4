"""JSON files that people or other programs have written."""

import json
from pathlib import Path
from typing import Any

from consortium.core.errors import UsageError


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file whose top level is an object.

    Raises:
        UsageError: `missing-file` or `bad-json`.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("missing-file", "no such file", str(path), "check the path") from None
    except (OSError, ValueError) as error:
        raise UsageError("bad-json", f"not a JSON file ({error})", str(path), "repair it") from None
    if not isinstance(raw, dict):
        raise UsageError("bad-json", "the top level is not an object", str(path), "repair it")
    return raw
