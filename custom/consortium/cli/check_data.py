"""`consortium check-data`: is this hospital's folder fit for training?

Reads a folder and writes nothing into it. What is wrong is printed by kind, with what to do about
it; a line at the end counts. Colours and the progress bar appear on terminals only.
"""

import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortium.core.errors import Incomplete, Refused

if TYPE_CHECKING:
    from consortium.core.findings import Finding

_SHOWN = 20
"""Findings of one kind that are printed."""

ADVICE = {
    "absent-label": "Is the structure really in none of these patients?",
    "affine-mismatch": "Resample the mask to its image, or export both again.",
    "bad-split": "Write training or validation, or leave the column out.",
    "bad-affine": "Export the file again with its geometry.",
    "burnt-in-text": "If it names a patient, cover it, or export the X-ray without annotations.",
    "channel-mismatch": "Resample the channels to one grid, or export those of one examination.",
    "colour-image": "Export the X-ray in grey, without drawings and annotations.",
    "constant-image": "It is blank. Export it again or remove the case.",
    "duplicate-channel": "A missing sequence filled with another? Keep the case if that is meant.",
    "duplicate-file": "List every X-ray once.",
    "duplicate-image": "Keep one of the two, with the right patient.",
    "duplicate-mask": "Give each image a mask of its own.",
    "duplicate-patient": "List every patient once.",
    "duplicate-slice": "One echo, time point or b-value a folder; remove copies of files.",
    "empty-mask": "Is the patient really without a labelled structure?",
    "empty-validation": "Put patients aside for validation.",
    "empty-series": "Copy the series' files there; one folder a series.",
    "identifying-header": "De-identify the files where your rules ask for it.",
    "intensity-outlier": "Was the file exported like the others (same units, same bit depth)?",
    "inverted-image": "Bone is to be white. Turn a negative; keep an X-ray that is none.",
    "label-name": "Does the value mean the same here and in the job?",
    "missing-column": "Export the column too, under this name.",
    "missing-file": "Copy the file there, or remove its entry from the list.",
    "missing-geometry": "Export the series again from the archive, as the scanner wrote it.",
    "missing-rescale": "Export the series again from the archive, with its rescaling.",
    "missing-value": "Complete them, or let these be left out.",
    "missing-slices": "Send the series again from the archive: files were lost on the way.",
    "mixed-orientation": "Remove the localizer, or give each orientation a folder of its own.",
    "mixed-slices": "Keep the slices of one acquisition.",
    "no-decoder": "Decompress the files (dcmdjpeg or gdcmconv --raw), then list them.",
    "non-integer-label": "Was the mask resampled? Use nearest neighbours, or export it again.",
    "not-a-number": "Write a number with a point, or nothing where it is not known.",
    "not-finite": "Export the file again, without NaN or infinity.",
    "nothing-to-train": "Leave patients for training.",
    "one-class": "A model needs patients of both: add some, or take no part.",
    "one-class-xrays": "Alone it would learn nothing; with others it can take part.",
    "one-class-training": "Alone it would learn nothing from them; is the split as it is meant?",
    "other-view": "Is that meant? data.views of the job names the views that it takes.",
    "out-of-range": "Is it in the job's unit? Convert the column, or correct the value.",
    "outside-folder": "Put the file into the folder and list it by its path inside.",
    "overlapping-segments": "Is the later segment the right one where both are?",
    "repeated-image": "List one of the two.",
    "several-scans": "Is it meant? List one scan of each patient otherwise.",
    "several-series": "Give each series a folder of its own and list the right one.",
    "shape-mismatch": "Does the mask belong to this image? Resample it, or export both again.",
    "sixteen-bit": "Is that the white of the files? Export 8 bits, or DICOM, where it is not.",
    "size-outlier": "Is it the right part of the body, whole, and the right scan?",
    "spacing-outlier": "Is it the right scan, and is its header right?",
    "split-patient": "Put all X-rays of a patient on one side.",
    "tilted-series": "Correct the tilt (dcm2niix does) and list the NIfTI file.",
    "tiny-image": "Is it a preview? Export the X-ray itself.",
    "too-few-patients": "Add patients, or take part with this few only on purpose.",
    "uneven-slices": "Resample the series to even slices and list it as NIfTI.",
    "unknown-label": "Give the voxels, patients or X-rays the right value; dataset.json or the job"
    " names it.",
    "unknown-segment": "Name the segment as dataset.json's labels do, or the label as the segment.",
    "unknown-view": "Add a column view where lateral X-rays may be among them.",
    "unknown-value": "Write the category as the job does.",
    "unreadable-file": "Copy or export the file again.",
    "wrong-channels": "Put the channels into the job's order, or correct modality in dataset.json.",
    "wrong-dimensions": "Export the file as one volume, or as one X-ray.",
}


def check_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="One hospital's folder.")],
    job: Annotated[
        str | None,
        typer.Option(help="Job to check against: its folder, its name or a settings.json."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write the findings here, outside DIR."),
    ] = None,
) -> None:
    """Check one hospital's folder before it trains. Nothing is written into it.

    Ends with 0 if there are no errors (warnings may remain) and with 1 if there are.
    """
    if json_file and json_file.resolve().is_relative_to(folder.resolve()):
        raise Refused(
            "inside-data", "nothing is written into DIR", str(json_file), "choose a file elsewhere"
        )
    from consortium.core.files import write_json
    from consortium.study.job_folder import find_settings
    from consortium.tasks.folders import check_folder, count_cases
    from consortium.tasks.registry import load_settings

    settings = load_settings(find_settings(job)) if job is not None else None
    cases, patients = count_cases(folder, settings)
    with _progress_bar() as progress:
        findings = check_folder(folder, settings, progress)
    errors = sum(finding.severity == "error" for finding in findings)
    if json_file:
        rows = [
            {"code": f.code, "severity": f.severity, "file": f.file, "detail": f.detail}
            for f in findings
        ]
        write_json(json_file, {"ok": not errors, "findings": rows})
    _print(findings)
    print(
        f"{_count(cases, 'case')}, {_count(patients, 'patient')}: "
        f"{_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}",
        flush=True,
    )
    if errors:
        raise Incomplete(
            "findings", f"{_count(errors, 'error')} in the data", str(folder), "see the list above"
        )


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Reading cases", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(findings: Sequence["Finding"]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    kinds = sorted(findings, key=lambda finding: (finding.severity, finding.code))
    for (severity, code), group in groupby(kinds, key=lambda f: (f.severity, f.code)):
        style = "bold red" if severity == "error" else "bold yellow"
        console.print(Text.assemble((severity, style), " ", (code, "bold")))
        for number, finding in enumerate(group):
            if number == _SHOWN:
                rest = sum(1 for _ in group) + 1
                console.print(f"  and {rest} more; --json FILE lists all")
                break
            line = ": ".join(part for part in (finding.file, finding.detail) if part)
            console.print(Text(_wrap(_plain(line), console.width)), soft_wrap=True)
        console.print(Text(_wrap(ADVICE[code], console.width), "dim"), end="\n\n", soft_wrap=True)


def _wrap(text: str, width: int) -> str:
    """Indented; a path is never broken, so that it can be copied."""
    return textwrap.fill(
        text,
        width,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(text: str) -> str:
    """Without what would steer a terminal: names come from a file that others may have written."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
