"""Numbers in sentences: one patient is, two patients are."""

import ast
import re
from pathlib import Path

import consortium
from consortium.core.plurals import every, plural

PACKAGE = Path(consortium.__file__).parent
COUNTED = re.compile(r"(?:^|[ (,;])\* (patients|cases|scans|findings|errors|warnings|files) ")


def test_one_is_singular():
    assert [plural(n, "patient") for n in (0, 1, 2)] == ["0 patients", "1 patient", "2 patients"]
    assert [plural(n, "file is", "files are") for n in (1, 2)] == ["1 file is", "2 files are"]
    assert [every(n, "patient") for n in (1, 5)] == ["the only patient is", "all 5 patients are"]


def sentences():
    """The package's texts with a value, written as `*`."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else "*" for part in node.values
                ]
                yield path.name, "".join(parts) + " "


def test_no_sentence_counts_what_may_be_one_without_the_helper():
    # "fewer than *" and "* of *" read well with any number.
    offenders = [
        (name, text)
        for name, text in sentences()
        if any(
            not text[: found.start()].endswith(("fewer than", "more than", "*, of", "* of"))
            for found in COUNTED.finditer(text)
        )
    ]
    assert not offenders
