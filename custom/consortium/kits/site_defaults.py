"""Safe defaults that the coordinator puts into a kit's `local/`, next to FLARE's own files.

* `byoc: none`: no job brings code. Its configuration can build only `HOSPITAL_CLASSES` at a
  hospital and `ORCHESTRATOR_CLASSES` at the orchestrator.
* A gate in the hospital's own process carries out the commands that jobs need, and no others. It
  judges each job by itself, whatever the orchestrator says of it.
* No shell command reads a hospital's files. Only its own steward operates it, shutdown excepted.
* A hospital's logs are not streamed. Its data folder is named in its own `local/hospital.json`.
"""

from typing import Any

from consortium.kits.hospital import HOSPITAL, HospitalFile
from consortium.kits.orchestrator import ORCHESTRATOR, OrchestratorFile

HOSPITAL_CLASSES = ["consortium.flare.client.components.HospitalExecutor"]
"""Everything that a job's configuration can build at a hospital, by exact name. FLARE applies the
list to jobs only, not to the kit's own files. `SiteData` is not on it: a job must not choose a
hospital's data folder."""
ORCHESTRATOR_CLASSES = [
    f"consortium.flare.server.components.{name}"
    for name in (
        "Assessment",
        "ModelPersistor",
        "ModelShareableGenerator",
        "StudyRounds",
        "StudyRun",
        "UpdateAggregator",
    )
]
"""Everything that a job's configuration can build at the orchestrator."""

_NOTHING_MORE = {"byoc": "none", "server-predeployed-flwr": "none", "shell_commands": "none"}

AUTHORIZATION: dict[str, Any] = {
    "format_version": "1.0",
    "permissions": {
        "project_admin": {
            "submit_job": "any",
            "clone_job": "any",
            "manage_job": "any",
            "download_job": "any",
            "view": "any",
            "restart": "any",
            "shutdown": "any",
            "operate": "o:site",
            **_NOTHING_MORE,
        },
        "org_admin": {
            "submit_job": "none",
            "clone_job": "none",
            "manage_job": "o:submitter",
            "download_job": "o:submitter",
            "view": "any",
            "operate": "o:site",
            **_NOTHING_MORE,
        },
        "lead": {
            "submit_job": "any",
            "clone_job": "n:submitter",
            "manage_job": "n:submitter",
            "download_job": "n:submitter",
            "view": "any",
            "operate": "o:site",
            **_NOTHING_MORE,
        },
        "member": {"view": "any"},
    },
}
"""Rights of each role at the orchestrator and at every hospital. A hospital can grant fewer in its
own `local/authorization.json`."""

PRIVACY: dict[str, Any] = {
    "scopes": [{"name": "default"}],
    "default_scope": "default",
    "components": [
        {"id": "site_data", "path": "consortium.flare.client.components.SiteData", "args": {}}
    ],
}
"""FLARE builds a site's components only if a scope is defined."""

_GUARD = {"id": "kit_guard", "path": "consortium.flare.parent.components.KitGuard", "args": {}}
_GATE = {"id": "gate", "path": "consortium.flare.parent.components.HospitalGate", "args": {}}
_OUTCOME = {"id": "outcome", "path": "consortium.flare.parent.components.OutcomeKeeper", "args": {}}
_KEEPER = {"id": "run_keeper", "path": "consortium.flare.parent.components.RunKeeper", "args": {}}
_ONE_COPY = {
    "id": "duplicate_kit_guard",
    "path": "consortium.flare.parent.components.DuplicateKitGuard",
    "args": {},
}


def _parent(*components: dict[str, Any]) -> dict[str, Any]:
    """Components that only the site's parent process loads, not the jobs' processes."""
    return {"format_version": 2, "components": list(components)}


_BASE: dict[str, Any] = {
    "format_version": 2,
    "class_list_enforcement_mode": "enforce",
}

HOSPITAL_RESOURCES: dict[str, Any] = {
    **_BASE,
    "class_allow_list": HOSPITAL_CLASSES,
    "allow_log_streaming": False,
    "client": {"retry_timeout": 30, "compression": "Gzip"},
    "components": [
        {
            "id": "resource_manager",
            "path": "consortium.flare.parent.components.HospitalGPUs",
            "args": {},
        },
        {
            "id": "resource_consumer",
            "path": "nvflare.app_common.resource_consumers.gpu_resource_consumer"
            ".GPUResourceConsumer",
            "args": {},
        },
        {
            "id": "process_launcher",
            "path": "nvflare.app_common.job_launcher.client_process_launcher"
            ".ClientProcessJobLauncher",
            "args": {},
        },
    ],
}

_STORE = "nvflare.app_common.storages.filesystem_storage.FilesystemStorage"

SERVER_RESOURCES: dict[str, Any] = {
    **_BASE,
    "class_allow_list": ORCHESTRATOR_CLASSES,
    "servers": [
        {
            "admin_storage": "transfer",
            "max_num_clients": 1000,
            "heart_beat_timeout": 600,
            "download_job_url": "",
            "admin_timeout": 10.0,
        }
    ],
    # In the kit's own folder: by default all federations on a machine share two folders in /tmp.
    "snapshot_persistor": {
        "path": "nvflare.app_common.state_persistors.storage_state_persistor.StorageStatePersistor",
        "args": {
            "uri_root": "/",
            "storage": {
                "path": _STORE,
                "args": {"root_dir": "{$WORKSPACE}/snapshots", "uri_root": "/"},
            },
        },
    },
    "components": [
        {
            "id": "job_scheduler",
            "path": "nvflare.app_common.job_schedulers.job_scheduler.DefaultJobScheduler",
            # A job that waits for a hospital is retried until the hospital connects, not ten times.
            "args": {
                "max_jobs": 4,
                "max_schedule_count": 1000000,
                "min_schedule_interval": 2.0,
                "max_schedule_interval": 30.0,
            },
        },
        {
            "id": "job_manager",
            "path": "consortium.flare.parent.components.CheckedJobs",
            "args": {"uri_root": "{$WORKSPACE}/jobs", "job_store_id": "job_store"},
        },
        {"id": "job_store", "path": _STORE},
        {
            "id": "process_launcher",
            "path": "nvflare.app_common.job_launcher.server_process_launcher"
            ".ServerProcessJobLauncher",
            "args": {},
        },
    ],
}


def local_files(role: str) -> dict[str, Any]:
    """Returns the JSON files that replace FLARE's in a kit, by their path in the kit.

    Args:
        role: `server`, `client` or an admin's role.
    """
    if role not in ("server", "client"):
        return {}
    files = {"local/authorization.json.default": AUTHORIZATION}
    if role == "server":
        return {
            **files,
            "local/consortium__p_resources.json": _parent(_GUARD, _OUTCOME, _KEEPER, _ONE_COPY),
            "local/resources.json": SERVER_RESOURCES,
            ORCHESTRATOR: OrchestratorFile().model_dump(),
        }
    return {
        **files,
        "local/consortium__p_resources.json": _parent(_GUARD, _GATE),
        "local/resources.json": HOSPITAL_RESOURCES,
        "local/privacy.json": PRIVACY,
        HOSPITAL: HospitalFile().model_dump(),
    }


START_CHECK = """\
if ! python3 -P -c 'import consortium' 2>/dev/null; then
  echo "error package-missing: consortium is not installed for $(command -v python3), $DIR," \\
    "activate its environment or install it" >&2
  exit 78
fi
python3 -P -m consortium.kits.start "$(dirname "$DIR")" || exit 78
export WORKSPACE PYTHONSAFEPATH=1
"""
"""Inserted into each starting script after it has set its folder `DIR`: the kit is checked before
anything in it is used, `resources.json` finds the workspace in the environment, and Python imports
nothing from the folder in which the script is called."""

_FOREIGN_CODE = "export PYTHONPATH=/local/custom:$PYTHONPATH\n"
"""A line of FLARE's scripts: whoever may write to this folder of the machine, which no kit has,
could put code into all processes; an empty `PYTHONPATH` would add the current folder too."""

STARTING_SCRIPTS = ("startup/start.sh", "startup/sub_start.sh", "startup/fl_admin.sh")


def with_check(script: str) -> str:
    """Inserts the check into one of FLARE's starting scripts, and removes `_FOREIGN_CODE`.

    Raises:
        ValueError: the script sets no `DIR=`, so FLARE 2.9 did not write it.
    """
    head, marker, rest = script.partition("\nDIR=")
    line, newline, tail = rest.partition("\n")
    if not marker or not newline:
        raise ValueError("no line begins with DIR=")
    return f"{head}\nDIR={line}\n{START_CHECK}{tail.replace(_FOREIGN_CODE, '')}"
