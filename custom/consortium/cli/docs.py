"""`scripts/docs`: writes the documents that are generated from the code.

These are `docs/settings.md` (from the settings' models), `docs/findings.md` and the tables of
finding codes in the jobs' READMEs (from the registry of codes). A test holds the committed files
to what is generated here, so they cannot drift.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel

from consortium.cli.run import DebugOption, run_app
from consortium.cli.terminal import say
from consortium.core.errors import Incomplete
from consortium.core.finding_codes import DataKind, FindingCode, codes_of
from consortium.tasks.registry import TASKS, settings_of

app = typer.Typer(add_completion=False)

_TABLE = re.compile(
    r"(<!-- finding codes of ([\w-]+), written by scripts/docs -->\n).*?"
    r"(<!-- end of finding codes -->)",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"^ {4}(\w+)(?: \(([^)]+)\))?: ", re.MULTILINE)

_SETTINGS_HEAD = """\
# Settings

Generated from the code by `scripts/docs`; do not edit.

A job's choices are in its `app/config/settings.json`. Change one with `--set KEY=VALUE`, where KEY
is the dotted key of this page and VALUE is JSON. The orchestrator and each hospital validate the
whole file when a run starts. They refuse an unknown key and a value out of range, and name the key.

The default is the package's. A job sets its own in its `settings.json`; see the job's README.
"""

_FINDINGS_HEAD = """\
# Finding codes

Generated from the code by `scripts/docs`; do not edit.

`consortium check-data DIR --job JOB` reports these codes. An error makes the folder unfit for
training: a run refuses it. A warning needs a look. A finding may name a file, so it never leaves
the hospital.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the settings reference.

    Attributes:
        key: dotted path in `settings.json`.
        values: type and range, in words.
        default: as JSON, or "required".
        unit: the number's unit, or empty.
        meaning: from the docstring of the section.
    """

    key: str
    values: str
    default: str
    unit: str
    meaning: str


@app.command()
def docs(
    root: Annotated[Path, typer.Option(help="The checkout to write into.")] = Path(),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a file is outdated.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Write the documents that are generated from the code."""
    outdated = [
        path
        for path, text in generated(root).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    if check and outdated:
        raise Incomplete(
            "outdated-docs", ", ".join(map(str, outdated)), str(root), "run scripts/docs"
        )
    for path in outdated:
        path.write_text(generated(root)[path], encoding="utf-8")
        say(path)


def generated(root: Path) -> dict[Path, str]:
    """Returns the generated files of a checkout with their content."""
    files = {root / "docs/settings.md": settings_reference(), root / "docs/findings.md": findings()}
    for path in sorted(root.glob("jobs/*/README.md")):
        files[path] = with_tables(path.read_text(encoding="utf-8"))
    return files


def with_tables(text: str) -> str:
    """Renews the tables of finding codes in a document; each stands between two marks.

    Raises:
        ValueError: a mark names an unknown kind of data.
    """
    return _TABLE.sub(lambda m: m[1] + _codes_table(codes_of(DataKind(m[2]))) + m[3], text)


def findings() -> str:
    """Returns the content of `docs/findings.md`."""
    parts = [_FINDINGS_HEAD]
    for kind in DataKind:
        title = kind.value[0].upper() + kind.value[1:]
        parts.append(f"\n## {title}\n\n{_codes_table(codes_of(kind))}")
    return "".join(parts)


def settings_reference() -> str:
    """Returns the content of `docs/settings.md`."""
    of_task = {task: list(_settings(settings_of(task))) for task in TASKS}
    first, *others = of_task.values()
    common = [row for row in first if all(row in rows for rows in others)]
    parts = [_SETTINGS_HEAD, "\n## Every job\n\n", _settings_table(common)]
    for task, rows in of_task.items():
        own = [row for row in rows if row not in common]
        parts += [f"\n## Jobs of the task {task}\n\n", _settings_table(own)]
    return "".join(parts)


def _codes_table(codes: Sequence[FindingCode]) -> str:
    rows = [(f"`{code.code}`", code.severity, code.when, code.advice) for code in codes]
    return _table(("code", "severity", "when", "what to do"), rows)


def _settings_table(settings: Sequence[Setting]) -> str:
    rows = [(f"`{s.key}`", s.values, s.default, s.unit, s.meaning) for s in settings]
    return _table(("setting", "values", "default", "unit", "meaning"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines
    )


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Yields the rows of a section and its subsections in the order of declaration."""
    schema = model.model_json_schema(by_alias=True)
    attributes = _attributes(model)
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner = list(_sections(field.annotation))
        plain = schema["properties"][key]
        if not _is_section(field.annotation):
            unit, meaning = attributes.get(name) or ("", field.description or "")
            assert meaning, f"{model.__name__}.{name} lacks a meaning"
            default = _required_or_default(plain, schema)
            yield Setting(prefix + key, _values(plain, schema), default, unit, meaning)
        for section in inner:
            yield from _settings(section, f"{prefix}{key}.")


def _is_section(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yields the sections that an annotation names, at any depth."""
    if _is_section(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _attributes(model: type[BaseModel]) -> Mapping[str, tuple[str, str]]:
    """Returns unit and meaning of each attribute from the docstrings of a section and its bases."""
    result: dict[str, tuple[str, str]] = {}
    for base in reversed(model.__mro__):
        text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for match, later in pairwise([*_ATTRIBUTE.finditer(text), None]):
            assert match is not None
            meaning = " ".join(text[match.end() : later.start() if later else None].split())
            result[match[1]] = (match[2] or "", meaning)
    return result


def _required_or_default(plain: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "default" not in plain:
        return f"`{json.dumps(plain['const'])}`" if "const" in plain else "required"
    return f"`{json.dumps(plain['default'])}`"


def _values(plain: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Describes the type and range of a JSON schema."""
    branches = plain.get("anyOf") or plain.get("oneOf")
    if branches:
        return ", or ".join(_values(branch, schema) for branch in branches)
    if "$ref" in plain:
        return "an object, see below"
    if "const" in plain:
        return f"`{json.dumps(plain['const'])}`"
    if "enum" in plain:
        return ", ".join(f"`{json.dumps(value)}`" for value in plain["enum"])
    kind = plain.get("type")
    if kind == "array":
        items = _values(plain["items"], schema)
        return f"list{_length(plain, 'Items')} of: {items}"
    if kind == "object":
        values = _values(plain["additionalProperties"], schema)
        return f"object{_length(plain, 'Properties')}, each value: {values}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "switch"}
    return words.get(str(kind), str(kind)) + _range(plain)


def _length(plain: Mapping[str, Any], unit: str) -> str:
    least, most = plain.get(f"min{unit}"), plain.get(f"max{unit}")
    if least is not None and least == most:
        return f" of length {least}"
    if least is not None and most is not None:
        return f" of length {least} to {most}"
    return f" of length {least} or more" if least is not None else ""


def _range(plain: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "below {}",
        "multipleOf": "a multiple of {}",
    }
    bounds = [text.format(f"{plain[key]:,.10g}") for key, text in words.items() if key in plain]
    return f" {', '.join(bounds)}" if bounds else ""


if __name__ == "__main__":
    run_app(app)
