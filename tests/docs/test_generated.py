"""The generated documents are what the code gives."""

import re

import pytest
from tests.conftest import ROOT

from consortium.cli.docs import generated, settings_reference, with_tables
from consortium.core.finding_codes import DataKind, codes_of
from consortium.tasks.registry import TASKS, settings_of

FILES = generated(ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_generated_file_is_up_to_date(path):
    assert path.read_text(encoding="utf-8") == FILES[path], "run scripts/docs"


def test_every_job_lists_its_finding_codes():
    jobs = {path.parent.name for path in ROOT.glob("jobs/*/meta.json")}
    listed = {path.parent.name for path in FILES if "| `missing-" in FILES[path]}
    assert jobs
    assert jobs <= listed


def test_the_reference_has_every_key_that_a_jobs_settings_may_hold():
    rows = set(re.findall(r"^\| `([\w.]+)` \|", settings_reference(), re.MULTILINE))
    for model in map(settings_of, TASKS):
        for name, section in model.model_fields.items():
            if hasattr(section.annotation, "model_fields"):
                inner = section.annotation.model_fields.items()
                assert {f"{name}.{field.alias or key}" for key, field in inner} - rows <= {
                    "data.outcome"  # a section, whose own keys are listed
                }
            else:
                assert name in rows


def test_the_reference_gives_range_default_and_meaning():
    reference = settings_reference()
    rows = [
        "| `server.momentum` | number at least 0, below 1 | `0.0` |",
        "| `data.channels` | list of length 1 or more of: text | required |",
        '| `update.compression` | `"bfloat16"`, `"int8"`, or null | `null` |',
    ]
    assert not [row for row in rows if row not in reference]


def test_a_table_between_marks_is_renewed_and_the_rest_of_the_document_stays():
    begin = "<!-- finding codes of tables, written by scripts/docs -->\n"
    end = "<!-- end of finding codes -->"
    renewed = with_tables(f"before\n{begin}old\n{end}\nafter")
    assert renewed.startswith(f"before\n{begin}| code |")
    assert renewed.endswith(f"|\n{end}\nafter")
    assert renewed.count("\n| `") == len(codes_of(DataKind.TABLES))
    with pytest.raises(ValueError, match="maps"):
        with_tables(f"{begin.replace('tables', 'maps')}{end}")
