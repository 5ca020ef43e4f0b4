"""A kind of task is one folder and one line of the registry; nothing else knows its name."""

import ast
import subprocess
import sys
from pathlib import Path

import consortium
from consortium.tasks.registry import TASKS

PACKAGE = Path(consortium.__file__).parent
REGISTRY = PACKAGE / "tasks" / "registry.py"


def mentions(path, task):
    """Imports of the task's folder, and its name as a string."""
    folder = TASKS[task]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [getattr(node, "module", None), getattr(node, "value", None)]
        names += [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
        for name in filter(lambda each: isinstance(each, str), names):
            if name in (task, folder) or name.startswith(f"{folder}."):
                yield name


def test_no_module_outside_a_tasks_folder_names_it():
    offenders = {
        (str(path.relative_to(PACKAGE)), name)
        for task in TASKS
        for path in PACKAGE.rglob("*.py")
        if path != REGISTRY and not path.is_relative_to(PACKAGE / "tasks" / task)
        for name in mentions(path, task)
    }
    assert not offenders


def test_a_mention_is_recognised():
    own = PACKAGE / "tasks" / "tabular"
    assert set(mentions(REGISTRY, "tabular")) == {"tabular", "consortium.tasks.tabular"}
    assert "consortium.tasks.tabular.settings" in set(mentions(own / "task.py", "tabular"))


def test_no_settings_or_text_of_a_task_needs_torch():
    program = (
        "import sys, consortium.tasks.registry as r;"
        "[(r.settings_of(t), r.text_of_task(t), r.synthetic_of(t)) for t in r.TASKS];"
        "print({'torch', 'monai'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"
