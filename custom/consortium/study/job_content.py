"""What a job may contain, and the one digest over all of it.

Pure: no FLARE, no disk. `study.json` repeats what `meta.json` says of the study, adds a nonce and
the date until which the job may first be started, and holds the digest. FLARE's signature of the
submitter covers `study.json` (`consortium.study.job_signature`), so it covers the job. Invariants:

* A job is exactly the known files. Its configuration is the package's own, numbers of `TUNED`
  aside, unless the job brings code, which a hospital must allow by itself.
* The digest covers every file by name and content (of FLARE's two files the JSON), and all of
  `study.json` but the digest itself and `consortium.run`.
* The orchestrator may change two things in `meta.json`: the run that a job continues, and a
  `deploy_map` without hospitals that the signed quorum does without.
"""

import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from consortium import __version__
from consortium.core.errors import Refused, UsageError
from consortium.core.names import is_hospital_name, is_run_id
from consortium.orchestration.quorum import declare_quorum
from consortium.orchestration.recovery import Attempt, attempt_of, exclude_sites
from consortium.study.job_json import canonical, parse_object
from consortium.study.job_signature import CERTIFICATE, SIGNATURES, Signer
from consortium.tasks.registry import parse_settings

CONFIG = "config"
STUDY = f"{CONFIG}/study.json"
_CONFIGURATION = ("config_fed_client.json", "config_fed_server.json")
_REWRITTEN = {f"{CONFIG}/{name}" for name in _CONFIGURATION}
_FILES = {STUDY, f"{CONFIG}/settings.json", *_REWRITTEN}
_CODE = "custom/"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # of a path in `custom/`
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BOUND = ("name", "consortium", "deploy_map", "mandatory_clients", "min_clients", "resource_spec")
"""Keys of `meta.json` that `study.json` repeats."""
TUNED = (
    "default_task_fetch_interval",
    "get_task_timeout",
    "heart_beat_timeout",
    "max_runner_sync_timeout",
    "np_download_chunk_size",
    "task_request_interval",
)
"""Keys of the configuration whose numbers a job may change: times and sizes of messages."""
_FLARES = (
    "approvals",
    "byoc",  # FLARE sets or removes it by the files that it deployed, whatever arrived
    "cloned_from",
    "content_location",
    "data_storage_format",
    "duration",
    "job_clients",
    "job_deploy_detail",
    "job_folder_name",
    "job_id",
    "last_schedule_time",
    "result_location",
    "schedule_count",
    "schedule_history",
    "start_time",
    "status",
    "submit_time",
    "submit_time_iso",
    "submitter_name",
    "submitter_org",
    "submitter_role",
)
"""Keys that FLARE adds to `meta.json`. Not among them are those by which a job would choose its
launcher, its image, its scope or other properties of a site."""
_OURS = "consortium_"  # keys of the run keeper begin like this
_UNUSED: tuple[Any, ...] = (None, "", {}, [])
_FLARES_STUDY = ("study", "default")  # FLARE's own word for data that a launcher mounts

Sites = Annotated[list[str], Field(max_length=1000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Gpu(_Strict):
    memory_in_GiB: Annotated[float, Field(ge=0)] = 0  # noqa: N815
    cpu_instead: bool = False


class _Request(_Strict):
    num_of_gpus: Annotated[int, Field(ge=0)] = 0
    mem_per_gpu_in_GiB: Annotated[float, Field(ge=0)] = 0  # noqa: N815
    cpu_instead: bool = False


def _run_or_none(value: str) -> str:
    if value and not is_run_id(value):
        raise ValueError("not the id of a run")
    return value


def _hospital_name(value: str) -> str:
    if not is_hospital_name(value):
        raise ValueError("not the name of a hospital")
    return value


HospitalName = Annotated[str, AfterValidator(_hospital_name)]


class _Consortium(_Strict):
    version: str
    run: Annotated[str, AfterValidator(_run_or_none)]
    hospitals: Annotated[list[HospitalName], Field(max_length=1000)]
    gpu: _Gpu | None = None
    quorum: dict[str, Any] = {}


class _DeployMap(_Strict):
    app: Sites


class Study(_Strict):
    """The content of `study.json`.

    Attributes:
        name: the job's.
        consortium: version of the package, run that the job continues, hospitals, quorum.
        deploy_map: FLARE's map of apps to sites; there is one app.
        mandatory_clients: sites without which FLARE does not start the job.
        min_clients: number of sites without which FLARE does not start the job.
        resource_spec: what the job asks of each site.
        nonce: drawn for each exported job, so that no two have the same digest.
        until: date and time, UTC, until which the job may first be started.
        digest: see `digest_of`.
    """

    name: str
    consortium: _Consortium
    deploy_map: _DeployMap
    mandatory_clients: Sites
    min_clients: int
    resource_spec: dict[str, _Request]
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    until: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class JobContent:
    """A job whose content was checked.

    Attributes:
        digest: of the whole job, hexadecimal SHA-256.
        until: date and time until which it may first be started.
        study: the content of `study.json`.
        brings_code: whether it has files below `custom/`.
    """

    digest: str
    until: datetime
    study: Mapping[str, Any]
    brings_code: bool

    @property
    def begins(self) -> bool:
        """Whether the submitter signed a new run; if not, `consortium.run` names an earlier one."""
        return not self.study["consortium"]["run"]


def digest_of(files: Mapping[str, bytes], study: Mapping[str, Any]) -> str:
    """Returns the digest of a job: SHA-256 over its canonical listing (RFC 8785).

    Args:
        files: of the job's app, by their path in it. FLARE's signatures and `study.json` itself are
            left out.
        study: the content of `study.json`; `digest` and `consortium.run` are left out.

    Raises:
        ValueError: `study` is not JSON.
    """
    listed = {
        name: _digest_of_file(name, content)
        for name, content in files.items()
        if name != STUDY and not is_signature(name)
    }
    plain = {key: value for key, value in study.items() if key != "digest"}
    section = plain.get("consortium")
    if isinstance(section, Mapping):
        plain["consortium"] = {key: value for key, value in section.items() if key != "run"}
    return hashlib.sha256(rfc8785.dumps({"files": listed, "study": plain})).hexdigest()


def _digest_of_file(name: str, content: bytes) -> str:
    """Returns the digest of a file; of FLARE's configuration, whatever its blanks and new lines.

    `nvflare job submit` writes the configuration again before it signs the job.
    """
    if name in _REWRITTEN:
        with contextlib.suppress(ValueError, RecursionError):
            content = rfc8785.dumps(parse_object(content))
    return hashlib.sha256(content).hexdigest()


def is_signature(name: str) -> bool:
    """Returns whether a file is one of those that FLARE adds when it signs a job."""
    return name.rpartition("/")[2] in (SIGNATURES, CERTIFICATE)


def check_content(files: Mapping[str, bytes]) -> JobContent:
    """Checks that a job's app is exactly what was exported, and nothing that runs by itself.

    Args:
        files: of the job's app, by their path in it.

    Raises:
        Refused: `altered-job`, `unknown-file`, `missing-file`, `other-configuration`, or what
            `read_study` refuses.
        UsageError: a setting is refused.
    """
    content = read_study(files)
    _check_names(files)
    if digest_of(files, content.study) != content.digest:
        raise _altered("a file")
    if not content.brings_code:
        for name in _CONFIGURATION:
            _check_configuration(name, files[f"{CONFIG}/{name}"])
    try:
        settings = parse_object(files[f"{CONFIG}/settings.json"])
    except ValueError as error:
        raise UsageError(
            "bad-json", f"not a JSON file ({error})", "settings.json", "repair it"
        ) from None
    parse_settings(settings)
    return content


def read_study(files: Mapping[str, bytes]) -> JobContent:
    """Reads what the submitter signed; the other files are not looked at.

    Args:
        files: of the job's app, by their path in it.

    Raises:
        Refused: `not-exported`, `bad-study` or `other-version`.
    """
    if STUDY not in files:
        raise Refused(
            "not-exported",
            "this is a job's source, not a job to submit",
            "study.json is missing",
            "write the job with scripts/export-job and submit that folder",
        )
    try:
        raw = parse_object(files[STUDY])
        study = Study.model_validate(raw)
        rfc8785.dumps(raw)  # refuses numbers that not everybody reads alike
        declare_quorum(study.consortium.hospitals or ["any"], study.consortium.quorum)
        until = _parse_time(study.until)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise _bad_study(f"{where}: {error.errors()[0]['msg']}") from None
    except UsageError as error:
        raise _bad_study(error.what) from None
    except (ValueError, RecursionError) as error:
        raise _bad_study(str(error)) from None
    if study.consortium.version != __version__:
        raise Refused(
            "other-version",
            f"the job was made with version {study.consortium.version} and {__version__}"
            " is installed",
            "consortium",
            "install the version that the consortium agreed on",
        )
    brings_code = any(name.startswith(_CODE) and not is_signature(name) for name in files)
    return JobContent(study.digest, until, raw, brings_code)


def _parse_time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _check_names(files: Mapping[str, bytes]) -> None:
    """Checks that a job has every file that it needs, and no file that nobody knows."""
    for name in sorted(_FILES - files.keys()):
        raise Refused("missing-file", "the job lacks a file", name, "export the job again")
    for name in sorted(files.keys() - _FILES):
        folder = name.rpartition("/")[0]
        code = all(_PART.fullmatch(part) for part in name.split("/")) and name.startswith(_CODE)
        inside = folder in ("", CONFIG) or f"{folder}/".startswith(_CODE)
        if not code and not (is_signature(name) and inside):
            raise Refused(
                "unknown-file", "no job has such a file", repr(name), "export the job again"
            )


def _check_configuration(name: str, content: bytes) -> None:
    """Checks that a job's configuration builds the package's shells and nothing else."""
    ours = Path(__file__).with_name(name).read_bytes()
    try:
        same = _same(parse_object(ours), parse_object(content))
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise Refused(
            "other-configuration",
            "the job's configuration is not the package's own",
            name,
            "leave it out of the job's folder: the export adds it",
        )


def _same(ours: Any, theirs: Any, key: str = "") -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[k], theirs[k], k) for k in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if key in TUNED:
        number = isinstance(theirs, int | float) and not isinstance(theirs, bool)
        return number and 0 < theirs < 2**31
    return canonical(ours) == canonical(theirs)


def check_job_id(job_id: Any) -> str:
    """Returns a job's id if it is one: FLARE uses it as a folder's name.

    Raises:
        Refused: `bad-job-id`.
    """
    if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
        raise Refused(
            "bad-job-id", "not the id of a job", repr(job_id)[:80], "name a job by its id"
        )
    return job_id


def check_meta(content: JobContent, meta: Mapping[str, Any], signer: Signer | None) -> None:
    """Compares a job's `meta.json` with the study that the submitter signed.

    Args:
        content: the job's.
        meta: as it arrived, with FLARE's own keys.
        signer: who signed the job; None if nobody did, as in a simulation.

    Raises:
        Refused: `altered-job`, with the key; `unknown-key`; `other-submitter`.
    """
    meta = {str(getattr(key, "value", key)): value for key, value in meta.items()}
    for key in sorted(meta.keys() - {*BOUND, *_FLARES}):
        known = key.startswith(_OURS) or (key, meta[key]) == _FLARES_STUDY
        if not known and meta[key] not in _UNUSED:
            raise Refused(
                "unknown-key", "no job has such a key", f"{key!r} in meta.json", "omit it"
            )
    expected = dict(content.study)
    expected["deploy_map"] = _narrow(expected, _left_out(meta))
    for key in BOUND:
        if not _equal(_without_run(expected.get(key)), _without_run(meta.get(key))):
            raise _altered(f"{key} in meta.json")
    if signer is None:
        return
    named = [meta.get(f"submitter_{key}", "") for key in ("name", "org", "role")]
    if named != [signer.name, signer.organisation, signer.role]:
        raise Refused(
            "other-submitter",
            "the job was signed by somebody else than its submitter",
            "the job",
            "export it again and submit it yourself",
        )


def run_of(content: JobContent, meta: Mapping[str, Any], job_id: str) -> str:
    """Returns the id of the run that a job begins or continues.

    A job that begins a run has one of FLARE's ids as the run's: its own, or its first job's.

    Raises:
        Refused: `altered-job`, if it is not a run that the submitter signed.
    """
    attempt = _attempt({**meta, "job_id": job_id})
    signed = content.study["consortium"]["run"]
    named = attempt.run if attempt is not None else ""
    if not isinstance(named, str) or not (named == signed if signed else _JOB_ID.fullmatch(named)):
        raise _altered("run in meta.json")
    return named


def _attempt(meta: Mapping[str, Any]) -> Attempt | None:
    try:
        return attempt_of({"job_id": "none", **meta})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _altered("the run keeper's record in meta.json") from None


def _left_out(meta: Mapping[str, Any]) -> tuple[str, ...]:
    attempt = _attempt(meta)
    left_out = attempt.left_out if attempt is not None else ()
    if not all(isinstance(name, str) for name in left_out):
        raise _altered("the run keeper's record in meta.json")
    return left_out


def _narrow(study: Mapping[str, Any], left_out: tuple[str, ...]) -> Mapping[str, Any]:
    """Returns the map of sites without hospitals that every round can do without."""
    deploy_map: Mapping[str, Any] = study["deploy_map"]
    if not left_out:
        return deploy_map
    hospitals, absent = study["consortium"]["hospitals"], set(left_out)
    if absent <= set(hospitals):
        quorum = declare_quorum(hospitals, study["consortium"].get("quorum", {}))
        asked = quorum.clients_per_round or len(quorum.hospitals)
        if asked - len(absent) >= quorum.minimum and not absent & set(quorum.mandatory):
            return exclude_sites(deploy_map, hospitals, left_out)
    raise _altered("deploy_map in meta.json")


def _without_run(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if key != "run"}
    return value


def _equal(one: Any, other: Any) -> bool:
    try:
        return canonical(one) == canonical(other)
    except ValueError:
        return False


def _altered(what: str) -> Refused:
    return Refused(
        "altered-job",
        f"{what} differs from what was submitted",
        "the job",
        "inform the submitter: the job was changed in transit",
    )


def _bad_study(problem: str) -> Refused:
    return Refused("bad-study", problem[:300], "study.json", "export the job again")
