"""FLARE job folders: found, filled in for a study, and exported with the package.

A job of ours is configuration only. `prepare_job` makes the copy that is submitted: the hospitals
that the study declares stand in its `meta.json`, the settings in its `settings.json`. The rest of
FLARE's configuration is the same for every job; it lies here once and is added to the copy.
"""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import consortium
from consortium import __version__
from consortium.core.errors import Refused, UsageError
from consortium.core.files import whole_folder, write_json
from consortium.core.json_files import read_json_object
from consortium.orchestration.quorum import declare_quorum
from consortium.settings.base import Aggregation, override
from consortium.tasks.registry import parse_settings

SETTINGS = Path("app/config/settings.json")
CLIENT_CONFIG = Path("app/config/config_fed_client.json")
SERVER_CONFIG = Path("app/config/config_fed_server.json")
STUDY = Path("app/config/study.json")
"""What of `meta.json` the study rests on, once more where FLARE's signature of a job covers it:
FLARE does not notice a `meta.json` that was altered after signing."""
BOUND = ("consortium", "deploy_map", "mandatory_clients", "min_clients", "resource_spec")
"""Keys of `meta.json` that `study.json` repeats."""
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_TAKEN_NAMES = ("server", "global")  # FLARE's own site, and the folder of the common curves


def find_settings(job: str) -> Path:
    """The `settings.json` that a user means.

    Args:
        job: path of a `settings.json`, of a job's folder, or the name of a job in the folder
            `jobs` here or further up, or in that of this package's checkout.

    Raises:
        UsageError: `unknown-job`.
    """
    here, checkout = Path.cwd(), Path(consortium.__file__).parents[2]
    jobs = [parent / "jobs" / job / SETTINGS for parent in (here, *here.parents, checkout)]
    for path in (Path(job), Path(job) / SETTINGS, *jobs):
        if path.is_file():
            return path.resolve()
    raise UsageError(
        "unknown-job", "no such job", job or "--job", "give its folder, name or settings.json"
    )


def find_job(job: str) -> Path:
    """The folder of the job that a user means, by its path or its name.

    Raises:
        UsageError: `unknown-job`.
    """
    folder = find_settings(job).parents[2]
    if not (folder / "meta.json").is_file():
        raise UsageError("unknown-job", "no meta.json", str(folder), "give a job's folder")
    return folder


def prepare_job(
    source: Path,
    out: Path,
    *,
    run: str,
    hospitals: Sequence[str],
    settings: dict[str, Any],
    quorum: Sequence[str] = (),
) -> None:
    """Writes the copy of a job that is submitted for a study.

    Args:
        source: a job's folder.
        out: where the copy goes; appears whole or not at all.
        run: id of the run; "" lets FLARE's job id be the run's.
        hospitals: that must take part; their names are FLARE's names of the sites.
        settings: content of its `settings.json`.
        quorum: `KEY=VALUE` changes of what the job's `meta.json` says of the quorum.

    Raises:
        UsageError: a setting, a hospital's name or the quorum is refused.
    """
    parsed = parse_settings(settings)
    if hospitals:
        _check_rule(parsed.rule, len(hospitals))
    for hospital in hospitals:
        if not _SITE_NAME.fullmatch(hospital) or hospital.lower() in _TAKEN_NAMES:
            raise UsageError(
                "bad-hospital-name",
                "a hospital's name is letters, digits, '.', '_' and '-',"
                f" and not {' or '.join(_TAKEN_NAMES)}",
                repr(hospital),
                "rename its folder",
            )
    meta = read_json_object(source / "meta.json")
    ours = meta.get("consortium", {})
    ours |= {"version": __version__, "run": run, "hospitals": sorted(hospitals)}
    meta["consortium"] = ours
    if "gpu" in ours:
        meta["resource_spec"] = dict.fromkeys(sorted(hospitals), _gpu_request(ours["gpu"]))
    declared = override(ours.get("quorum", {}), list(quorum))
    if declared:
        ours["quorum"] = declared
    if hospitals:
        needs = declare_quorum(hospitals, declared, "--quorum" if quorum else "meta.json")
        meta["mandatory_clients"], meta["min_clients"] = list(needs.needed), needs.minimum
    else:
        meta["mandatory_clients"], meta["min_clients"] = [], 1
    with whole_folder(out) as beside:
        shutil.copytree(source, beside, dirs_exist_ok=True, ignore=_ignored)
        add_configuration(beside)
        write_json(beside / "meta.json", meta)
        write_json(beside / STUDY, {key: meta[key] for key in BOUND if key in meta})
        write_json(beside / SETTINGS, settings)


def add_configuration(job: Path) -> None:
    """Writes FLARE's configuration of a hospital and of the orchestrator into a job's folder.

    A file that the folder has already is left as it is.
    """
    for path in (CLIENT_CONFIG, SERVER_CONFIG):
        if not (job / path).exists():
            shutil.copyfile(Path(__file__).with_name(path.name), job / path)


def _check_rule(rule: Aggregation, hospitals: int) -> None:
    """Multi-Krum leaves nobody out where there are too few hospitals to tell who is apart.

    Raises:
        UsageError: `bad-setting`.
    """
    attackers = rule.options.get("attackers", 1)
    least = 2 * attackers + 3
    if rule.rule == "multi_krum" and hospitals < least:
        raise UsageError(
            "bad-setting",
            f"setting aggregation: multi_krum with {attackers} attackers needs {least}"
            f" hospitals, the study has {hospitals}",
            "settings.json",
            "take fewer attackers or another rule",
        )


def _gpu_request(asked: dict[str, Any]) -> dict[str, Any]:
    """One GPU, as FLARE's `resource_spec` of a site says it."""
    request = {"num_of_gpus": 1, "cpu_instead": bool(asked.get("cpu_instead", False))}
    memory = asked.get("memory_in_GiB", 0)
    return {**request, "mem_per_gpu_in_GiB": memory} if memory else request


def export_job(
    source: Path,
    out: Path,
    *,
    hospitals: Sequence[str] = (),
    settings: Path | None = None,
    assignments: Sequence[str] = (),
    quorum: Sequence[str] = (),
    run: str = "",
    with_package: bool = True,
) -> None:
    """Writes a job to submit.

    With the package it runs in a federation where that is not installed, and the submitter needs
    the right to bring code (FLARE's `byoc`) at every site; without, it is configuration only.

    Args:
        source: a job's folder.
        out: the job to write; appears whole or not at all.
        hospitals: that must take part; empty leaves it to the sites that are connected.
        settings: a file that takes the place of the job's `settings.json`, or None.
        assignments: `KEY=VALUE` changes of the settings.
        quorum: see `prepare_job`.
        run: id of a run that this job continues; "" begins one.
        with_package: whether the job carries this package.

    Raises:
        Refused: `exists`, where something is at `out` already.
        UsageError: the file is missing or no JSON, or a setting or a hospital's name is refused.
    """
    if out.exists():
        raise Refused("exists", "there is something already", str(out), "choose another folder")
    file = settings or source / SETTINGS
    raw = read_json_object(file)
    parse_settings(raw, str(file))
    if assignments:
        raw = override(raw, list(assignments))
        parse_settings(raw, "--set")
    if not with_package:
        prepare_job(source, out, run=run, hospitals=hospitals, settings=raw, quorum=quorum)
        return
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / source.name
        prepare_job(source, plain, run=run, hospitals=hospitals, settings=raw, quorum=quorum)
        with whole_folder(out) as beside:
            shutil.copytree(plain, beside, dirs_exist_ok=True)
            shutil.copytree(
                Path(consortium.__file__).parent,
                beside / "app" / "custom" / "consortium",
                ignore=_ignored,
            )


def _ignored(folder: str, names: list[str]) -> set[str]:
    """What is for readers of the repository, or left by tools."""
    return {
        name
        for name in names
        if name in ("__pycache__", "variants")
        or name.startswith(".")
        or name.endswith((".md", ".png", ".jsonl"))
    }
