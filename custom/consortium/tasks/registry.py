"""The registry of tasks; each task is one folder and one line of `TASKS`.

A folder is a package with these modules, which are imported when needed:

* `settings`, with `SETTINGS`, the class of its settings; it imports neither torch nor MONAI,
  because the job process at a hospital reads settings without loading them;
* `text`, with `TEXT`, a `consortium.tasks.text.TaskText`; it imports neither of them either;
* `task`, with `TASK`, a `consortium.tasks.base.Task`: data, network, training and scores;
* `synthetic` (optional), with `SYNTHETIC`, a `consortium.tasks.synthetic.Synthetic`: generates
  patients.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object
from consortium.settings.base import CHOICE, SWITCH, Settings
from consortium.tasks.text import TaskText

if TYPE_CHECKING:
    from consortium.tasks.base import Task
    from consortium.tasks.synthetic import Synthetic

TASKS = {
    "segmentation": "consortium.tasks.segmentation",
    "classification": "consortium.tasks.classification",
    "tabular": "consortium.tasks.tabular",
}
"""The package of each task. The first task is the default for settings that name none."""


def settings_of(task: str) -> type[Settings]:
    """The class of a task's settings."""
    kind: type[Settings] = import_module(f"{TASKS[task]}.settings").SETTINGS
    return kind


def text_of_task(task: str) -> TaskText:
    """The text of a task for pages and the terminal."""
    text: TaskText = import_module(f"{TASKS[task]}.text").TEXT
    return text


def synthetic_of(task: str) -> "Synthetic | None":
    """A task's generator of patients, or None if it has none."""
    module = f"{TASKS[task]}.synthetic"
    if find_spec(module) is None:
        return None
    synthetic: Synthetic = import_module(module).SYNTHETIC
    return synthetic


def task_named(name: str) -> "Task":
    """The task of a name in `TASKS`."""
    task: Task = import_module(f"{TASKS[name]}.task").TASK
    return task


def task_of(settings: Settings) -> "Task":
    """The task of a job."""
    return task_named(settings.task)


def parse_settings(raw: Mapping[str, Any], where: str = "settings.json") -> Settings:
    """Validates a job's settings.

    Raises:
        UsageError: `unknown-setting` or `bad-setting`, with the dotted path of the setting.
    """
    task = raw.get("task", next(iter(TASKS)))
    if not isinstance(task, str) or task not in TASKS:
        raise UsageError(
            "bad-setting",
            f"setting task: there is no task {json.dumps(task)[:80]}",
            where,
            f"choose {' or '.join(TASKS)}",
        )
    try:
        return settings_of(task).model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"] if part not in (SWITCH, CHOICE)]
        path = ".".join(parts) or "settings"
        if first["type"] == "extra_forbidden":
            raise UsageError(
                "unknown-setting",
                f"there is no setting {path}",
                where,
                "see the names in the job's settings.json",
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] == "missing" else f" (given: {json.dumps(first['input'])[:80]})"
        raise UsageError(
            "bad-setting", f"setting {path}: {message}{given}", where, "correct the value"
        ) from None


def load_settings(path: Path) -> Settings:
    """Reads and validates a `settings.json`.

    Raises:
        UsageError: the file is missing or not JSON, or a setting is invalid.
    """
    return parse_settings(read_json_object(path), path.name)
