"""Finds FLARE job folders, completes them for a study and exports them with the package.

Our jobs contain only configuration. `prepare_job` makes the copy that is submitted: its `meta.json`
names the hospitals that the study declares, its `settings.json` holds the settings, and its
`study.json` binds all of it (`consortium.study.job_content`). The rest of FLARE's configuration is
the same for every job; it is kept here once and added to the copy.
"""

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import consortium
from consortium import __version__
from consortium.core.errors import Refused, UsageError
from consortium.core.files import whole_folder, write_json
from consortium.core.json_files import read_json_object
from consortium.core.names import TAKEN_NAMES, is_hospital_name, is_run_id
from consortium.orchestration.quorum import declare_quorum
from consortium.settings.base import Aggregation, override
from consortium.study.job_content import BOUND, check_content, digest_of
from consortium.study.job_files import read_folder
from consortium.tasks.registry import parse_settings

APP = Path("app")
SETTINGS = Path("app/config/settings.json")
CLIENT_CONFIG = Path("app/config/config_fed_client.json")
SERVER_CONFIG = Path("app/config/config_fed_server.json")
STUDY = Path("app/config/study.json")
"""Repeats the keys of `meta.json` that the study depends on, and holds the job's digest, in a file
that FLARE's signature of a job covers: FLARE does not notice a `meta.json` that was altered after
signing, or a file that was taken from another signed job."""
VALID = timedelta(days=30)
"""Time within which an exported job must first be started, unless the submitter sets a date."""


def find_settings(job: str) -> Path:
    """Finds the `settings.json` of a job.

    Args:
        job: path of a `settings.json`, path of a job's folder, or name of a job in a folder `jobs`:
            in the current folder, in one above it, or in this package's checkout.

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
    """Finds a job's folder by its path or its name.

    Raises:
        UsageError: `unknown-job`.
    """
    folder = find_settings(job).parents[2]
    if not (folder / "meta.json").is_file():
        raise UsageError("unknown-job", "no meta.json", str(folder), "name a job's folder")
    return folder


def prepare_job(
    source: Path,
    out: Path,
    *,
    run: str,
    hospitals: Sequence[str],
    settings: dict[str, Any],
    quorum: Sequence[str] = (),
    until: datetime | None = None,
) -> None:
    """Writes the copy of a job that is submitted for a study, each copy for one run.

    Args:
        source: a job's folder.
        out: the copy; appears whole or not at all.
        run: id of the run; "" uses FLARE's job id.
        hospitals: names of the hospitals that must take part, which are FLARE's site names.
        settings: content of its `settings.json`.
        quorum: `KEY=VALUE` changes of the quorum in the job's `meta.json`.
        until: date, with a time zone, until which hospitals let it start; by default `VALID` from
            now.

    Raises:
        UsageError: a setting, a name or the quorum is refused.
    """
    parsed = parse_settings(settings)
    if run and not is_run_id(run):
        raise UsageError(
            "bad-run-id",
            "a run's id must be letters, digits, '_' and '-'",
            repr(run),
            "give the id that consortium runs lists",
        )
    if hospitals:
        _check_rule(parsed.rule, len(hospitals))
    for hospital in hospitals:
        if not is_hospital_name(hospital):
            raise UsageError(
                "bad-hospital-name",
                "a hospital's name must be letters, digits, '.', '_' and '-',"
                f" and not {' or '.join(TAKEN_NAMES)}",
                repr(hospital),
                "rename its folder",
            )
    meta = {"name": source.name, **read_json_object(source / "meta.json")}
    study = meta.get("consortium", {})
    study |= {"version": __version__, "run": run, "hospitals": sorted(hospitals)}
    meta["consortium"] = study
    meta.setdefault("resource_spec", {})
    if "gpu" in study:
        meta["resource_spec"] = dict.fromkeys(sorted(hospitals), _gpu_request(study["gpu"]))
    declared = override(study.get("quorum", {}), list(quorum))
    if declared:
        study["quorum"] = declared
    if hospitals:
        required = declare_quorum(hospitals, declared, "--quorum" if quorum else "meta.json")
        meta["mandatory_clients"], meta["min_clients"] = list(required.needed), required.minimum
    else:
        meta["mandatory_clients"], meta["min_clients"] = [], 1
    with whole_folder(out) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=_ignored)
        add_configuration(partial)
        write_json(partial / "meta.json", meta)
        write_json(partial / SETTINGS, settings)
        last = (until or datetime.now(UTC) + VALID).astimezone(UTC)
        study = {key: meta[key] for key in BOUND if key in meta}
        study |= {"nonce": secrets.token_hex(16), "until": f"{last:%Y-%m-%dT%H:%M:%SZ}"}
        write_json(partial / STUDY, study)
        seal_job(partial)


def seal_job(job: Path) -> None:
    """Writes the digest of a prepared job into its `study.json`; needed after every change of it.

    Raises:
        Refused: `unsafe-archive`, if the folder holds a link or too much.
    """
    study = read_json_object(job / STUDY)
    write_json(job / STUDY, {**study, "digest": digest_of(read_folder(job / APP), study)})


def add_configuration(job: Path) -> None:
    """Adds FLARE's configuration of a hospital and of the orchestrator to a job's folder.

    An existing file is kept.
    """
    for path in (CLIENT_CONFIG, SERVER_CONFIG):
        if not (job / path).exists():
            shutil.copyfile(Path(__file__).with_name(path.name), job / path)


def _check_rule(rule: Aggregation, hospitals: int) -> None:
    """Refuses Multi-Krum with too few hospitals: it would exclude nobody.

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
            "choose fewer attackers or another rule",
        )


def _gpu_request(gpu: dict[str, Any]) -> dict[str, Any]:
    """Requests one GPU, in the form of a site's entry in FLARE's `resource_spec`."""
    request = {"num_of_gpus": 1, "cpu_instead": bool(gpu.get("cpu_instead", False))}
    memory = gpu.get("memory_in_GiB", 0)
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
    until: datetime | None = None,
    with_package: bool = True,
) -> None:
    """Writes a job to submit.

    With the package the job runs in a federation where the package is not installed; the submitter
    then needs the right to bring code (FLARE's `byoc`) at every site. Without it the job contains
    only configuration.

    Args:
        source: a job's folder.
        out: the job to write; appears whole or not at all.
        hospitals: names of the hospitals that must take part; empty: any that are connected.
        settings: a file that replaces the job's `settings.json`, or None.
        assignments: `KEY=VALUE` changes of the settings.
        quorum: see `prepare_job`.
        run: id of a run that this job continues; "" begins a new one.
        until: see `prepare_job`.
        with_package: whether the job carries this package.

    Raises:
        Refused: `exists`, if `out` exists already; what `check_content` refuses, such as a
            configuration of its own in a job without code.
        UsageError: the file is missing or not JSON, or a setting or a hospital's name is refused.
    """
    if out.exists():
        raise Refused("exists", "the folder exists already", str(out), "choose another folder")
    file = settings or source / SETTINGS
    raw = read_json_object(file)
    parse_settings(raw, str(file))
    if assignments:
        raw = override(raw, list(assignments))
        parse_settings(raw, "--set")
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / source.name
        prepare_job(
            source, plain, run=run, hospitals=hospitals, settings=raw, quorum=quorum, until=until
        )
        if with_package:
            package = plain / APP / "custom" / "consortium"
            shutil.copytree(Path(consortium.__file__).parent, package, ignore=_ignored)
            seal_job(plain)
        check_content(read_folder(plain / APP))
        with whole_folder(out) as partial:
            shutil.copytree(plain, partial, dirs_exist_ok=True)


def _ignored(folder: str, names: list[str]) -> set[str]:
    """Names of files for readers of the repository, and of files that tools leave."""
    return {
        name
        for name in names
        if name in ("__pycache__", "variants")
        or name.startswith(".")
        or name.endswith((".md", ".png", ".jsonl"))
    }
